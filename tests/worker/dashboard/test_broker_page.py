"""The Broker page and `/api/queues/length` over a real Redis, with no worker running."""

import json
import re

import pytest
from redis import Redis
from waiting import eventually

from worker.queues import CHANGES_QUEUE, Stream

PAUSED = Stream("main", "us-east-1", "paused")


@pytest.fixture
def broker(place):
    client = Redis.from_url(place.environment["CELERY_BROKER_URL"])
    yield client
    client.delete(PAUSED.queue, CHANGES_QUEUE, "celery")


@pytest.fixture
def backlog(broker):
    """Three batches of a paused stream, and a change that nobody has taken."""
    enqueued_at = b'"headers": {"enqueued_at": 1.5}'
    broker.lpush(PAUSED.queue, b'{"body": "1", %b}' % enqueued_at, b"{}", b"{}")
    broker.lpush(CHANGES_QUEUE, b"{}")


def lengths(dashboard):
    answer = dashboard.get("/api/queues/length")
    assert answer.status == 200
    return {queue["name"]: queue for queue in json.loads(answer.body)["active_queues"]}


def test_the_api_lists_every_queue_with_its_backlog_though_no_worker_runs(dashboard, eventful, backlog):
    found = lengths(dashboard)

    assert found[CHANGES_QUEUE]["messages"] == 1
    assert found[PAUSED.queue]["messages"] == 3
    assert found[PAUSED.queue]["consumers"] == 0
    assert found[PAUSED.queue]["oldest_message_seconds"] > 1_000_000
    assert found[PAUSED._replace(name="flowing").queue]["oldest_message_seconds"] is None
    assert found[PAUSED._replace(name="disconnected").queue]["messages"] == 0


def test_the_page_shows_the_backlog_of_a_paused_stream(dashboard, eventful, backlog):
    page = dashboard.get("/broker").body

    row = re.search(rf'<tr id="{re.escape(PAUSED.queue)}">(.*?)</tr>', page, re.DOTALL)[1]
    assert [cell.strip() for cell in re.findall(r"<td[^>]*>(.*?)</td>", row)][:2] == ["3", "0"]


def test_celerys_default_queue_is_shown_where_somebody_forgot_the_queue(dashboard, broker):
    assert "celery" not in lengths(dashboard)

    broker.lpush("celery", b"{}")

    assert lengths(dashboard)["celery"]["messages"] == 1


def test_consumers_are_those_of_this_moment(dashboard, talkative_worker):
    eventually(lambda: lengths(dashboard).get("talk", {}).get("consumers") == 1)
