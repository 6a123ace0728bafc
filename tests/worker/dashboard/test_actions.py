"""The actions on a stream's page, and the people who may take them."""

import re

import pytest

from worker.flow.circuit_breakers import OPERATOR
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
        assert "staging ·" in site.get("/streams").body
        assert re.search(r'id="pending-alerts">\s*<a [^>]*>2<', site.get("/workers").body)
