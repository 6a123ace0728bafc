"""Which attempts are done with."""

import pytest

from worker.config import FIREHOSE_TIMEOUT_SECONDS, read_settings
from worker.firehose.clients import CONNECT_TIMEOUT_SECONDS
from worker.services import KEPT_VISIBILITY_TIMEOUTS
from worker.state.idempotency import COMPLETED_ATTEMPTS, LEASES, SEQUENCE, IdempotencyState


@pytest.fixture
def records(services):
    return services.idempotency


def test_completing_an_attempt_completes_no_other(records, redis):
    records.complete("task", 1)
    attempts = [("task", 1), ("task", 0), ("task", 2), ("another", 1)]
    states = [records.acquire(task_id, retries, "owner") for task_id, retries in attempts]
    assert states == [IdempotencyState.COMPLETED] + 3 * [IdempotencyState.ACQUIRED]


def test_the_completed_ones_among_many_messages_are_found(records):
    assert records.completed(["one", "other"]) == set()
    records.complete("one", 0)
    assert records.completed(["one", "other"]) == {"one"}
    assert records.completed([]) == set()


def test_a_completed_record_outlives_the_return_of_its_message(records, redis):
    records.complete("task", 0)
    (key,) = redis.keys(f"{COMPLETED_ATTEMPTS}*")
    assert redis.ttl(key) == KEPT_VISIBILITY_TIMEOUTS * read_settings({}).visibility_timeout
    assert KEPT_VISIBILITY_TIMEOUTS >= 2


def test_a_message_that_comes_back_was_received_when_it_first_came(records):
    assert records.record_arrival("task", 100) == 100
    assert records.record_arrival("task", 200) == 100
    assert records.record_arrival("another", 200) == 200


def test_a_message_keeps_its_sequence_number_and_a_later_one_has_a_greater_one(records, redis):
    first = records.stamp("task")
    later = [records.stamp(f"task-{number}") for number in range(50)]
    assert [first, *later] == sorted({first, *later})
    assert records.stamp("task") == first
    assert redis.ttl(f"{SEQUENCE}:task") == KEPT_VISIBILITY_TIMEOUTS * read_settings({}).visibility_timeout


def test_numbers_grow_when_the_clock_is_put_back(records, redis):
    redis.set(SEQUENCE, 9 * 10**15)
    assert records.stamp("task") == 9 * 10**15 + 1


def test_the_first_worker_acquires_the_attempt(records):
    assert records.acquire("task", 0, "one") is IdempotencyState.ACQUIRED
    assert records.acquire("task", 0, "other") is IdempotencyState.IN_PROGRESS
    assert records.acquire("task", 1, "other") is IdempotencyState.ACQUIRED


def test_a_lease_ends_with_completion_release_or_expiry(records, redis):
    for name in ("complete", "release", "lost"):
        records.acquire(name, 0, "one")
    records.complete("complete", 0)
    records.release("release", 0, "one")
    records.record_lost_worker("lost", 0)
    assert records.acquire("complete", 0, "other") is IdempotencyState.COMPLETED
    assert records.acquire("release", 0, "other") is IdempotencyState.ACQUIRED
    assert records.acquire("lost", 0, "other") is IdempotencyState.ACQUIRED


def test_a_worker_releases_no_lease_of_another(records):
    records.acquire("task", 0, "one")
    records.release("task", 0, "other")
    assert records.acquire("task", 0, "other") is IdempotencyState.IN_PROGRESS


def test_a_completed_attempt_cannot_be_acquired(records, redis):
    records.complete("task", 0)
    assert records.acquire("task", 0, "one") is IdempotencyState.COMPLETED
    assert not redis.keys(f"{LEASES}*")


def test_a_lease_outlives_a_firehose_call_and_ends_before_its_message_returns(records, redis):
    records.acquire("task", 0, "one")
    (key,) = redis.keys(f"{LEASES}*")
    assert (
        CONNECT_TIMEOUT_SECONDS + FIREHOSE_TIMEOUT_SECONDS
        < redis.ttl(key)
        <= read_settings({}).visibility_timeout
    )


def test_a_lease_that_was_acquired_is_found_again_by_its_owner(records):
    for _ in range(2):
        assert records.acquire("task", 0, "one") is IdempotencyState.ACQUIRED
    assert records.acquire("task", 0, "other") is IdempotencyState.IN_PROGRESS


def test_what_is_recorded_with_a_completion_is_recorded_once_for_a_mark(records, redis):
    for mark in ("first", "first", "second"):
        records.complete("task", 0, lambda pipe: pipe.incr("counter"), mark=mark)
    assert redis.get("counter") == "2"
