"""The state is emptied, restored, or another one: changes wait, and none is skipped."""

from chaos import PATIENT, RECORDS
from redis import Redis
from waiting import eventually

from worker.failures.alerts import ALERTS

STATE, ELSEWHERE = 1, 5
"""Databases of the test's Redis."""


def swap_state(stack):
    """Put the state aside, with an empty one in its place; or back."""
    stack.services.redis.swapdb(STATE, ELSEWHERE)


def is_reported(stack):
    return any(alert.error_code == "StateMissing" for alert in stack.services.alerts.all())


def send_more(load):
    load.records = load.sent + load.per_message
    load.send()


def test_the_state_is_emptied_and_restored(stack, load, start, tell):
    worker = start(**PATIENT)
    load.send(RECORDS // 3)
    load.arrive()
    load.settle()
    swap_state(stack)
    # Until no process has a snapshot of the registry any more.
    eventually(lambda: send_more(load) or is_reported(stack), every=0.1)
    send_more(load)
    assert stack.services.counters.of(None).skipped == {}
    swap_state(stack)
    send_more(load)
    load.arrive()
    load.settle()
    tell(load, "SWAPDB with an empty state, and back")
    assert worker.is_running
    assert stack.services.counters.of(None).skipped == {}


def test_the_state_of_one_of_two_workers_is_elsewhere(stack, load, start, tell):
    start(**PATIENT)
    load.send(RECORDS // 3)
    load.arrive()
    url = f"{stack.redis_url}/{ELSEWHERE}"
    start(AUDIENCE_REDIS_URL=url, **PATIENT)
    with Redis.from_url(url) as elsewhere:
        # Until that worker has taken a message, too.
        eventually(lambda: send_more(load) or elsewhere.llen(ALERTS), every=0.1)
    load.arrive()
    settled = load.settle()
    tell(load, "AUDIENCE_REDIS_URL of one of two workers is elsewhere")
    assert stack.services.counters.of(None).skipped == {}
    assert (settled.counts.enqueued, settled.counts.delivered) == (load.sent, load.sent)
    swap_state(stack)
    assert is_reported(stack)
    assert stack.services.counters.of(None).skipped == {}
