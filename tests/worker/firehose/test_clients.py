"""boto3 clients with a configuration's credentials."""

import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs

import pytest
from botocore.exceptions import ClientError
from botocore.loaders import JSONFileLoader
from cryptography.fernet import Fernet

from devstack.firehose import FakeFirehose, error, fail
from schemas.settings import Configuration
from worker.config import read_settings
from worker.errors import CredentialsError, SecretKeyError
from worker.firehose import clients as module
from worker.firehose.clients import Clients
from worker.services import Services
from worker.state.secrets import Cipher

ROLE = "arn:aws:iam::123456789012:role/firehose"
ASSUMED = """<AssumeRoleResponse xmlns="https://sts.amazonaws.com/doc/2011-06-15/"><AssumeRoleResult><Credentials>
<AccessKeyId>ASIAASSUMED000001</AccessKeyId><SecretAccessKey>secretive</SecretAccessKey>
<SessionToken>token</SessionToken><Expiration>2099-01-01T00:00:00Z</Expiration>
</Credentials></AssumeRoleResult></AssumeRoleResponse>"""
DENIED = """<ErrorResponse xmlns="https://sts.amazonaws.com/doc/2011-06-15/"><Error>
<Code>AccessDenied</Code><Message>not authorized</Message></Error></ErrorResponse>"""


class FakeSts:
    """Lets somebody assume a role who gives its external ID."""

    def __init__(self, external_id):
        self.external_id = external_id
        self.asked = []
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self):
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, *_):
        self._server.shutdown()
        self._server.server_close()


def _handler(sts):
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            body = self.rfile.read(int(self.headers["Content-Length"]))
            asked = {name: values[0] for name, values in parse_qs(body.decode()).items()}
            sts.asked.append(asked | {"by": self.headers["Authorization"]})
            is_known = asked.get("ExternalId") == sts.external_id
            answer = (ASSUMED if is_known else DENIED).encode()
            self.send_response(200 if is_known else 403)
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, *_):
            pass

    return Handler


@pytest.fixture(scope="module")
def firehose():
    with FakeFirehose() as firehose:
        firehose.create("travel")
        yield firehose


@pytest.fixture(scope="module")
def sts():
    with FakeSts("external") as sts:
        yield sts


@pytest.fixture(autouse=True)
def endpoints(firehose, sts, monkeypatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL_FIREHOSE", firehose.url)
    monkeypatch.setenv("AWS_ENDPOINT_URL_STS", sts.url)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIAENVIRONMENT01")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secretive")
    firehose.calls.clear()
    sts.asked.clear()


@pytest.fixture
def clients(services):
    return Clients(services.cipher, read_timeout=30)


@pytest.fixture
def caller(clients, firehose):
    """Who Firehose thinks is calling, when somebody calls with a configuration."""

    def call(configuration, region="us-east-1"):
        clients.get(configuration, region).put_record_batch(
            DeliveryStreamName="travel", Records=[{"Data": b"a"}]
        )
        return firehose.calls[-1].access_key_id

    return call


def with_key(services, access_key_id="AKIACONFIGURED001", **settings):
    return Configuration("main", access_key_id, services.cipher.encrypt("secretive"), **settings)


def test_a_configuration_s_access_key_is_used(caller, services):
    assert caller(with_key(services)) == "AKIACONFIGURED001"


def test_a_configuration_s_session_token_is_sent_with_its_key(clients, services):
    token = services.cipher.encrypt("secretive token")
    client = clients.get(with_key(services, session_token=token), "us-east-1")
    sent = []
    client.meta.events.register("before-send", lambda request, **_: sent.append(request.headers))
    client.put_record_batch(DeliveryStreamName="travel", Records=[{"Data": b"a"}])
    assert [headers["X-Amz-Security-Token"] for headers in sent] == [b"secretive token"]


def test_without_an_access_key_the_environment_s_credentials_are_used(caller):
    assert caller(Configuration("main")) == "AKIAENVIRONMENT01"


def test_without_any_credentials_there_is_an_error(clients, monkeypatch):
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    for configuration in (Configuration("main"), Configuration("main", role_arn=ROLE)):
        with pytest.raises(CredentialsError, match="there are none"):
            clients.get(configuration, "us-east-1")


def test_credentials_that_come_later_are_found(clients, monkeypatch):
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    with pytest.raises(CredentialsError):
        clients.get(Configuration("main"), "us-east-1")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIAENVIRONMENT01")
    assert clients.get(Configuration("main"), "us-east-1")


def test_a_role_is_assumed_with_its_external_id(caller, services, sts):
    assert caller(with_key(services, role_arn=ROLE, external_id="external")) == "ASIAASSUMED000001"
    (asked,) = sts.asked
    assert (asked["Action"], asked["RoleArn"], asked["ExternalId"]) == ("AssumeRole", ROLE, "external")
    assert asked["RoleSessionName"] == "audience-firehose-main"
    assert "AKIACONFIGURED001" in asked["by"]


def test_a_role_without_the_right_external_id_is_refused(caller, services):
    with pytest.raises(ClientError, match="AccessDenied"):
        caller(with_key(services, role_arn=ROLE, external_id="wrong"))


def test_a_role_is_assumed_once_and_not_for_each_call(caller, services, sts):
    configuration = with_key(services, role_arn=ROLE, external_id="external")
    caller(configuration)
    caller(configuration)
    assert len(sts.asked) == 1


def test_a_client_is_made_once_and_kept(clients, services):
    configuration = with_key(services)
    assert clients.get(configuration, "us-east-1") is clients.get(configuration, "us-east-1")


def test_each_region_has_its_own_client(clients, services):
    configuration = with_key(services)
    clients.get(configuration, "us-east-1")
    assert clients.get(configuration, "eu-west-1").meta.region_name == "eu-west-1"
    assert clients.get(configuration, "us-east-1").meta.region_name == "us-east-1"


def test_a_changed_configuration_has_a_new_client_and_the_old_one_goes(clients, caller, services):
    old, new = with_key(services), with_key(services, "AKIACONFIGURED002")
    first = clients.get(old, "us-east-1")
    assert caller(new) == "AKIACONFIGURED002"
    assert clients.get(old, "us-east-1") is not first


def test_a_forgotten_client_is_made_anew_and_another_configuration_s_is_kept(clients, services):
    configuration, other = with_key(services), Configuration("other")
    first, kept = clients.get(configuration, "us-east-1"), clients.get(other, "us-east-1")
    clients.forget("main", "us-east-1")
    assert clients.get(configuration, "us-east-1") is not first
    assert clients.get(other, "us-east-1") is kept


def test_the_least_recently_used_clients_are_dropped(clients, monkeypatch):
    monkeypatch.setattr(module, "MOST_CLIENTS", 2)
    used, unused, new = map(Configuration, ("used", "unused", "new"))
    kept, gone = clients.get(used, "us-east-1"), clients.get(unused, "us-east-1")
    assert clients.get(used, "us-east-1") is kept
    clients.get(new, "us-east-1")
    assert clients.get(used, "us-east-1") is kept
    assert clients.get(unused, "us-east-1") is not gone


def test_botocore_s_data_is_read_once_for_all_clients(clients, monkeypatch):
    read = []
    load = JSONFileLoader.load_file
    monkeypatch.setattr(JSONFileLoader, "load_file", lambda self, path: read.append(path) or load(self, path))
    clients.get(Configuration("first"), "us-east-1")
    assert any("firehose" in path for path in read)
    read.clear()
    clients.get(Configuration("second"), "us-east-1")
    assert not read


def test_a_rotated_key_still_decrypts_a_stored_secret(redis, firehose):
    old, new = (Fernet.generate_key().decode() for _ in range(2))
    Services(redis, read_settings({"AUDIENCE_SECRET_KEY": old})).registry.configure(
        name="main", access_key_id="AKIACONFIGURED001", secret_access_key="secretive"
    )
    rotated = Services(redis, read_settings({"AUDIENCE_SECRET_KEY": f"{new},{old}"}))
    configuration = rotated.registry.snapshot().configurations["main"]
    client = Clients(rotated.cipher, read_timeout=30).get(configuration, "us-east-1")
    client.put_record_batch(DeliveryStreamName="travel", Records=[{"Data": b"a"}])
    assert firehose.calls[-1].access_key_id == "AKIACONFIGURED001"


def test_a_secret_that_cannot_be_decrypted_is_an_error(services):
    with pytest.raises(SecretKeyError):
        Clients(Cipher([]), read_timeout=30).get(with_key(services), "us-east-1")


def test_botocore_does_not_try_again_since_celery_does(clients, services, firehose):
    firehose.faults.append(fail(error("InternalFailure", 500), times=1))
    client = clients.get(with_key(services), "us-east-1")
    with pytest.raises(ClientError):
        client.put_record_batch(DeliveryStreamName="travel", Records=[{"Data": b"a"}])
    assert len(firehose.calls) == 1
    firehose.faults.clear()


def test_a_client_waits_for_an_answer_for_the_configured_timeout(services):
    configuration = with_key(services)
    client = Clients(services.cipher, read_timeout=7).get(configuration, "us-east-1")
    assert client.meta.config.read_timeout == 7
