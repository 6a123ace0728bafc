"""A worker says at its start what it will not be able to do."""

import pytest

from worker.config import read_settings
from worker.consumer.start.checks import report_troubles
from worker.services import Services

NAME = "worker1@example"


@pytest.fixture
def with_stored_secret(services):
    """A registry with a configuration whose secret was encrypted with the services' key."""
    services.registry.configure(
        name="main", access_key_id="AKIASECRETIVE0001", secret_access_key="secretive-access-key"
    )
    return services


@pytest.fixture
def make_worker(redis, clock):
    """Another worker over the same Redis, with these variables alone."""
    return lambda **variables: Services(
        redis, read_settings(variables), clock=clock, monotonic=clock, sleep=clock.sleep
    )


def report(worker):
    report_troubles(
        NAME,
        malformed_endpoint=worker.settings.malformed_endpoint,
        registry=worker.registry,
        cipher=worker.cipher,
        alerts=worker.alerts,
    )


def alerts(services):
    return [(alert.type, alert.error_code, alert.message) for alert in services.alerts.all()]


@pytest.mark.usefixtures("with_stored_secret")
def test_a_missing_secret_key_raises_an_alert_where_a_secret_is_stored(make_worker):
    keyless = make_worker()
    report(keyless)
    ((kind, code, message),) = alerts(keyless)
    assert (kind, code) == ("Worker Trouble", "SecretKeyError")
    assert message.startswith(f"{NAME}: a stored secret needs AUDIENCE_SECRET_KEY")


def test_a_missing_secret_key_is_no_trouble_where_no_secret_is_stored(make_worker):
    keyless = make_worker()
    keyless.registry.configure(name="main", role_arn="arn:aws:iam::123456789012:role/x")
    report(keyless)
    assert not alerts(keyless)


@pytest.mark.parametrize("url", ["localhost:4566", "user:secretive@localhost:5000", "http://", "http://[::"])
@pytest.mark.parametrize("name", ["AWS_ENDPOINT_URL_FIREHOSE", "AWS_ENDPOINT_URL"])
def test_a_malformed_endpoint_raises_an_alert_without_its_url(make_worker, name, url):
    misled = make_worker(**{name: url})
    report(misled)
    ((kind, code, message),) = alerts(misled)
    assert (kind, code) == ("Worker Trouble", "EndpointError")
    assert f"{name} must be a URL" in message
    assert "secretive" not in message


def test_a_worker_that_has_all_it_needs_tells_nothing(with_stored_secret, make_worker, secret_key):
    worker = make_worker(
        AUDIENCE_SECRET_KEY=secret_key, AWS_ENDPOINT_URL_FIREHOSE="http://user:secretive@localhost:4566"
    )
    report(worker)
    assert not alerts(worker)


def test_a_redis_that_is_away_at_the_start_is_no_trouble_of_the_worker(services, redis_server):
    redis_server.connected = False
    report(services)
