"""The classification of broken TLS connections, by the errors of real handshakes on loopback."""

import pytest
from tls import Certificate, TlsServer, answer_plainly, close, send_alert, serving

from devstack.firehose import FakeFirehose
from schemas.settings import Configuration
from worker.firehose import exchanges
from worker.firehose.clients import Clients
from worker.firehose.errors import FIREHOSE_ERRORS, Kind, classify
from worker.firehose.exchanges import read_response


@pytest.fixture(scope="module")
def certificate(tmp_path_factory):
    return Certificate(tmp_path_factory.mktemp("certificate"))


@pytest.fixture
def server(certificate):
    """A Firehose with a stream, behind TLS."""
    with FakeFirehose() as firehose:
        firehose.create("travel")
        with serving(TlsServer(firehose._server.RequestHandlerClass, certificate.context())) as server:
            yield server


@pytest.fixture
def make_client(server, monkeypatch):
    """A client of the server that trusts the certificates of a bundle."""
    monkeypatch.setenv("AWS_ENDPOINT_URL_FIREHOSE", server.url)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIASECRETIVE0001")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secretive")

    def make(bundle=None):
        if bundle:
            monkeypatch.setenv("AWS_CA_BUNDLE", str(bundle))
        return Clients(cipher=None, read_timeout=5).get(Configuration("main"), "us-east-1")

    return make


@pytest.fixture
def ask(make_client):
    """Describe the stream with a new client. Returns None, or the error's classification."""

    def describe(bundle=None):
        try:
            make_client(bundle).describe_delivery_stream(DeliveryStreamName="travel")
        except FIREHOSE_ERRORS as error:
            return classify(error)
        return None

    return describe


def test_a_trusted_certificate_is_no_trouble(ask, certificate):
    assert ask(certificate.bundle) is None


def test_a_connection_over_tls_makes_plain_exchanges_once_it_is_open(make_client, certificate, monkeypatch):
    read = []

    def remember(sock):
        read.append(read_response(sock))
        return read[-1]

    monkeypatch.setattr(exchanges, "read_response", remember)
    client = make_client(certificate.bundle)
    for _ in range(3):
        client.put_record_batch(DeliveryStreamName="travel", Records=[{"Data": b"a"}])
    assert [response.status for response in read] == [200, 200]


def test_a_certificate_that_is_not_trusted_is_named(ask):
    found = ask()
    assert found.kind is Kind.WORKER_TROUBLE
    assert "is not trusted" in found.failure.message


@pytest.mark.parametrize("make", ["nothing", "directory", "junk"])
def test_a_bundle_that_cannot_be_read_is_named(ask, tmp_path, make):
    bundle = tmp_path / "bundle.pem"
    if make == "directory":
        bundle.mkdir()
    if make == "junk":
        bundle.write_text("no certificate")
    found = ask(bundle)
    assert found.kind is Kind.WORKER_TROUBLE
    assert "AWS_CA_BUNDLE" in found.failure.message


@pytest.mark.parametrize("broken_by", [close, send_alert, answer_plainly], ids=lambda how: how.__name__)
def test_a_handshake_that_is_broken_off_says_nothing_of_the_certificate(ask, server, certificate, broken_by):
    server.broken_by = broken_by
    found = ask(certificate.bundle)
    assert server.broken == 1
    assert found.kind is not Kind.PERMANENT
    assert "not trusted" not in found.failure.message
    assert found.kind is Kind.TRANSIENT or "handshake" in found.failure.message
    server.broken_by = None
    assert ask(certificate.bundle) is None
