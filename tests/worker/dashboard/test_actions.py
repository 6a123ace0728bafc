"""The actions on a stream's page, and the people who may take them."""

import re
from types import SimpleNamespace

import pytest

from devstack.firehose import FakeFirehose
from worker.dashboard.stream_pages import ACTIONS
from worker.failures.alert_types import AlertType
from worker.firehose.clients import Clients
from worker.flow.circuit_breakers import OPERATOR, CircuitState
from worker.queues import Stream

STREAM = Stream("main", "us-east-1", "acted-upon")
PAGE = f"/streams/{STREAM.queue}"


@pytest.fixture
def acted_upon(eventful):
    """A stream that flows."""
    identifier = eventful.registry.connect(
        audience_id=77, configuration="main", delivery_stream_name=STREAM.name
    )
    eventful.circuit_breakers.resume(STREAM)
    yield eventful
    eventful.registry.disconnect(identifier)
    eventful.circuit_breakers.resume(STREAM)


@pytest.fixture
def tested(services, monkeypatch):
    """An application whose stream passes every check of `test`."""
    with FakeFirehose() as firehose:
        monkeypatch.setenv("AWS_ENDPOINT_URL_FIREHOSE", firehose.url)
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIASECRETIVE0001")
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secretive")
        firehose.create(STREAM.name)
        services.registry.configure(name=STREAM.configuration)
        yield SimpleNamespace(services=services, clients=Clients(services.cipher, read_timeout=30))


def token(page):
    return re.search(r'name="_xsrf" value="([^"]+)"', page)[1]


def press(site, action, credentials=None):
    """Press a button of the page as a browser does: with the page's token and its cookie."""
    page = site.get(PAGE, credentials)
    return site.post(PAGE, {"action": action, "_xsrf": token(page.body)}, credentials, cookie=page.cookie)


def test_a_stream_is_paused_and_resumed_and_the_audit_list_says_by_whom(dashboard, acted_upon):
    assert "Paused:" in press(dashboard, "pause").body
    assert acted_upon.circuit_breakers.get(STREAM).reason == OPERATOR

    assert "Resumed:" in press(dashboard, "resume").body
    assert acted_upon.circuit_breakers.get(STREAM) is None

    resumed, paused = acted_upon.audit.latest(2)
    assert (paused.action, paused.subject, resumed.action) == ("pause", STREAM.queue, "resume")
    assert paused.actor == "somebody on this machine"


def test_test_shows_each_check_and_changes_nothing(dashboard, acted_upon):
    body = press(dashboard, "test").body

    assert 'id="checks"' in body
    assert "failed" in body
    assert acted_upon.circuit_breakers.get(STREAM) is None


def test_a_passed_test_has_one_batch_probe_a_stream_that_a_refusal_had_paused(tested):
    breakers = tested.services.circuit_breakers
    breakers.pause(STREAM, AlertType.ACCESS_DENIED)
    done, checks = ACTIONS["test"](tested, STREAM, "admin")
    assert all(check.ok for check in checks)
    assert "(Access Denied) and flows again once" in done
    assert breakers.state(STREAM) is CircuitState.HALF_OPEN


def test_a_passed_test_leaves_an_operators_pause_alone(tested):
    tested.services.circuit_breakers.pause(STREAM, OPERATOR)
    done, _ = ACTIONS["test"](tested, STREAM, "admin")
    assert "An operator has paused it" in done
    assert tested.services.circuit_breakers.state(STREAM) is CircuitState.PAUSED


def test_an_action_without_the_pages_token_is_refused(dashboard, acted_upon):
    assert dashboard.post(PAGE, {"action": "pause"}).status == 403
    assert acted_upon.circuit_breakers.get(STREAM) is None


def test_an_unknown_action_is_refused(dashboard, acted_upon):
    assert press(dashboard, "explode").status == 400


def test_a_stream_that_is_unknown_is_not_found(dashboard):
    assert dashboard.get("/streams/firehose.main.us-east-1.nothing").status == 404
    assert dashboard.get("/streams/celery").status == 404


def test_a_viewer_sees_the_page_without_buttons_and_cannot_act(place, acted_upon):
    with place.dashboard({"FLOWER_BASIC_AUTH": "admin:secret", "AUDIENCE_VIEWER_AUTH": "guest:look"}) as site:
        page = site.get(PAGE, "guest:look")
        assert page.status == 200
        assert "<button" not in page.body.split('id="main-content"')[1]
        assert site.post(PAGE, {"action": "pause"}, "guest:look").status == 403

        assert "Paused:" in press(site, "pause", "admin:secret").body
        assert acted_upon.audit.latest(1)[0].actor == "admin"


def test_pages_of_ours_are_guarded_by_headers(dashboard):
    headers = dashboard.get("/streams").headers

    assert "default-src 'self'" in headers["Content-Security-Policy"]
    assert "frame-ancestors 'none'" in headers["Content-Security-Policy"]
    assert headers["Cache-Control"] == "no-store"
    assert headers["X-Frame-Options"] == "DENY"


def test_settings_are_shown_and_secrets_are_not(dashboard, acted_upon):
    body = dashboard.get(PAGE).body

    assert "send_anonymous_users" in body
    assert "secret_access_key" not in body


def test_every_page_bears_the_environments_name_and_the_number_of_fatal_alerts(place, eventful):
    with place.dashboard({"AUDIENCE_ENVIRONMENT": "staging"}) as site:
        for path in ("/streams", "/alerts", "/workers", "/broker"):
            body = site.get(path).body
            assert 'id="environment">staging<' in body
            assert "<title>staging · " in body
            assert 'rel="icon" href="/audience/environment.svg"' in body
        icon = site.get("/audience/environment.svg")
        assert (icon.status, icon.headers["Content-Type"]) == (200, "image/svg+xml")
        assert ">S</text>" in icon.body
        assert re.search(r'id="pending-alerts">\s*<a [^>]*>2<', site.get("/workers").body)
