"""forget-configuration, reencrypt."""

import pytest
from cryptography.fernet import Fernet
from fakeredis import FakeRedis

from worker.celery import app
from worker.config import read_settings
from worker.queues import Stream
from worker.services import Services

KEYS = [Fernet.generate_key().decode() for _ in range(3)]
SECRET = "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY"
TOKEN = "temporary-token"
STREAM = Stream("main", "us-east-1", "stream")


@pytest.fixture
def rotate(services, clock, monkeypatch):
    """Have the command run with other keys, over the same Redis."""
    redis = FakeRedis(decode_responses=True)

    def with_keys(*keys):
        settings = read_settings({"AUDIENCE_SECRET_KEY": ",".join(keys)})
        found = Services(redis, settings, clock)
        monkeypatch.setitem(app.__dict__, "services", found)
        return found

    return with_keys


def configure(operator, name="main"):
    options = (
        "--access-key-id",
        "AKIAIOSFODNN7EXAMPLE",
        "--secret-access-key-stdin",
        "--session-token-stdin",
    )
    operator.runs("configure", name, *options, stdin=f"{SECRET}\n{TOKEN}\n")


def test_a_configuration_that_no_connection_uses_is_forgotten(operator, services):
    configure(operator)
    assert "forgot main" in operator.runs("forget-configuration", "main").stdout
    assert operator.lists("configurations") == []
    assert operator.lists("audit")[0]["action"] == "forget-configuration"


def test_a_configuration_that_is_used_is_not_forgotten_and_the_connections_are_named(operator):
    connection = operator.connects()
    message = operator.fails("forget-configuration", "main")
    assert f"audience-firehose disconnect {connection}" in message
    assert [row["id"] for row in operator.lists("configurations")] == ["main"]
    operator.runs("disconnect", connection)
    operator.runs("forget-configuration", "main")


def test_a_configuration_that_is_not_there_cannot_be_forgotten(operator):
    assert "list them: audience-firehose configurations" in operator.fails("forget-configuration", "main")


def test_forget_names_what_a_configuration_leaves_behind(operator, services):
    connection = operator.connects()
    services.counters.enqueued(STREAM, 7)
    operator.runs("disconnect", connection)
    assert "7 records of its streams" in operator.runs("forget-configuration", "main").stderr


def test_after_reencryption_the_old_key_is_not_needed(operator, rotate):
    old, new, _ = KEYS
    rotate(old)
    configure(operator, "main")
    configure(operator, "other")
    operator.runs("configure", "role", "--role-arn", "arn:aws:iam::123456789012:role/forwarder")
    rotate(new, old)
    done = operator.lists("reencrypt")
    assert [row["id"] for row in done] == ["main", "other"]
    services = rotate(new)
    for name in ("main", "other"):
        configuration = services.registry.refresh().configurations[name]
        assert services.cipher.decrypt(configuration.secret_access_key) == SECRET
        assert services.cipher.decrypt(configuration.session_token) == TOKEN


def test_a_secret_of_a_lost_key_stays_as_it_is_and_the_others_are_reencrypted(operator, rotate):
    lost, old, new = KEYS
    rotate(lost)
    configure(operator, "lost")
    rotate(old)
    configure(operator, "main")
    rotate(new, old)
    message = operator.tries("reencrypt")
    assert message.exit_code == 1
    assert message.stdout == "reencrypted main\n"
    assert "lost: a stored secret was encrypted with another key" in message.stderr
    assert "keep the old key" in message.stderr
    services = rotate(new, lost)
    stored = services.registry.refresh().configurations["lost"].secret_access_key
    assert services.cipher.decrypt(stored) == SECRET


def test_reencryption_without_a_key_is_refused(operator, rotate):
    rotate(KEYS[0])
    configure(operator)
    rotate()
    assert "AUDIENCE_SECRET_KEY" in operator.fails("reencrypt")
    assert operator.lists("configurations")[0]["secret_access_key"] == "set"
