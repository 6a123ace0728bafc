"""The Dead Letters pages over a real Redis: look into one, replay, discard and export many."""

import json
import re

import pytest
from redis import Redis
from waiting import eventually

from worker.failures.alert_types import AlertType, Failure
from worker.failures.dead_lettering import Undeliverable
from worker.failures.dead_letters import Message
from worker.queues import Stream

STREAM = Stream("main", "us-east-1", "flowing")
SECRET = "p.fogg@example.com"
GIVEN_UP = Failure(AlertType.RETRY_LIMIT_EXCEEDED, "SlowDown", "the stream is throttled")


@pytest.fixture
def letters(place, eventful):
    """Three dead letters of a stream that is connected, and one of a caller's."""
    known = {found.id for found in eventful.alerts.all()}
    for number in range(3):
        kwargs = {"records": [SECRET], "configuration": "main", "delivery_stream_name": STREAM.name}
        message = Message(STREAM.task, STREAM.queue, kwargs)
        eventful.dead_lettering.dead_letter(
            Undeliverable(f"letter-{number}", message, GIVEN_UP, records=1, stream=STREAM)
        )
    invalid = Failure(AlertType.INVALID_CHANGE, "ValidationError", "1 of 1 invalid")
    message = Message("audience.forward", "audience.changes", {"changes": [{"Email": SECRET}]})
    eventful.dead_lettering.dead_letter(Undeliverable("letter-invalid", message, invalid, records=1))
    yield eventful
    eventful.dead_lettering.discard_many(eventful.dead_letters.all())
    Redis.from_url(place.environment["CELERY_BROKER_URL"]).delete(STREAM.queue, "audience.changes")
    ours = [found.id for found in eventful.alerts.all() if found.id not in known]
    for identifier in ours:
        eventful.alerts.acknowledge(identifier)


def press(site, page, path, **fields):
    """Press a button of a page as a browser does: with the page's token and its cookie."""
    shown = site.get(page)
    token = re.search(r'name="_xsrf" value="([^"]+)"', shown.body)[1]
    return site.post(path, {"_xsrf": token, **fields}, cookie=shown.cookie)


def test_letters_are_listed_and_filtered_without_their_content(dashboard, letters):
    page = dashboard.get("/dead-letters").body
    narrowed = dashboard.get("/dead-letters?type=Invalid+Change").body

    assert "4 of 4 letters match" in page
    assert "1 of 4 letters match" in narrowed
    assert SECRET not in page


def test_the_content_is_shown_on_request_alone_and_the_request_is_recorded(dashboard, letters):
    path = "/dead-letters/letter-0"
    assert SECRET not in dashboard.get(path).body

    assert SECRET in press(dashboard, path, path, action="show").body

    entry = letters.audit.latest(1)[0]
    assert (entry.action, entry.subject) == ("show", "letter-0")


def test_a_letter_is_replayed_into_its_queue_and_its_alert_is_resolved(place, dashboard, letters):
    broker = Redis.from_url(place.environment["CELERY_BROKER_URL"])
    before = broker.llen(STREAM.queue)

    press(dashboard, "/dead-letters/letter-0", "/dead-letters/letter-0", action="replay")

    assert broker.llen(STREAM.queue) == before + 1
    assert dashboard.get("/dead-letters/letter-0").status == 404


def test_many_are_discarded_with_progress(dashboard, letters):
    page = "/dead-letters?type=Retry+Limit+Exceeded"

    started = press(dashboard, page, page, action="discard")

    assert started.status == 302
    eventually(lambda: "Finished: 3 of 3 done" in dashboard.get(started.location).body)
    assert [letter.id for letter in letters.dead_letters.all()] == ["letter-invalid"]
    entry = letters.audit.latest(1)[0]
    assert (entry.action, entry.detail) == ("discard", "3 letters")


def test_many_are_replayed_and_what_cannot_be_is_left(dashboard, letters):
    gone = STREAM._replace(name="gone")
    message = Message(gone.task, gone.queue, {"records": [SECRET]})
    letters.dead_lettering.dead_letter(
        Undeliverable("letter-gone", message, GIVEN_UP, records=1, stream=gone)
    )

    started = press(dashboard, "/dead-letters", "/dead-letters", action="replay")

    eventually(lambda: "Finished: 4 of 5 done, 1 left" in dashboard.get(started.location).body)
    assert [letter.id for letter in letters.dead_letters.all()] == ["letter-gone"]


def test_an_export_holds_a_letter_a_line_and_is_recorded(dashboard, letters):
    exported = press(dashboard, "/dead-letters", "/dead-letters/export")

    lines = [json.loads(line) for line in exported.body.splitlines()]
    assert len(lines) == 4
    assert lines[0]["content"]["kwargs"]["records"] == [SECRET]
    assert letters.audit.latest(1)[0].action == "export"
    assert dashboard.get("/dead-letters/export").status == 405


def test_an_alert_is_acknowledged_on_its_page_and_the_count_falls(dashboard, letters):
    def pending():
        return int(re.search(r'id="alerts-open">(\d+)<', dashboard.get("/alerts").body)[1])

    states = letters.alerts.states()
    alert = next(found for found in letters.alerts.all() if found.id not in states)
    before = pending()

    assert "Acknowledged" in press(dashboard, "/alerts", "/alerts", acknowledge=alert.id).body

    assert pending() == before - 1


def test_an_unknown_letter_is_not_found(dashboard):
    assert dashboard.get("/dead-letters/nothing").status == 404


def test_every_type_of_alert_is_explained(dashboard):
    page = dashboard.get("/alerts/types").body

    assert all(f'aria-label="{alert_type}"' in page for alert_type in AlertType)
