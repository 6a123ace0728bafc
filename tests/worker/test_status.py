"""The state and counters of each stream in `status` and on the Streams page."""

import pytest
from kombu.exceptions import OperationalError

from schemas.records import Skip
from worker.dashboard.labels import SKIP_LABELS, reason_label
from worker.failures.alert_types import AlertType, Failure
from worker.failures.dead_lettering import Undeliverable
from worker.failures.dead_letters import Message
from worker.flow.admission import Cost
from worker.flow.circuit_breakers import CORRUPT, OPERATOR, PAUSED_KEY
from worker.queues import CHANGES_QUEUE, Stream
from worker.status import StreamState

GONE = Failure(AlertType.STREAM_NOT_FOUND, "ResourceNotFoundException", "there is no such stream")


def nothing_waits(queues):
    return dict.fromkeys(queues, 0)


@pytest.fixture
def stream(services):
    """A registered stream."""
    services.registry.configure(name="main")
    services.registry.connect(audience_id=1, configuration="main", delivery_stream_name="members")
    return Stream("main", "us-east-1", "members")


def dead_letter(services, stream, records):
    queue = stream.queue if stream else CHANGES_QUEUE
    message = Message("audience.forward", queue, {})
    services.dead_lettering.dead_letter(
        Undeliverable(f"{queue}:{records}", message, GONE, records=records, stream=stream)
    )


def fail(services, stream):
    services.circuit_breakers.record_failure(stream, AlertType.INTERNAL_SERVER_ERROR, first=10, longest=60)


def test_the_status_of_a_flowing_stream(services, stream):
    services.counters.delivered(stream, accepted=10, refused=2)
    services.counters.retrying(stream, "task", 2)
    services.counters.skipped({(stream, Skip.ANONYMOUS): 3})
    dead_letter(services, stream, records=4)

    (row,) = services.status.read(lambda queues: nothing_waits(queues) | {stream.queue: 5}).rows

    assert (row.stream, row.state, row.breaker, row.waiting, row.dead) == (stream, "flowing", None, 5, 4)
    assert (row.counts.delivered, row.counts.refused, row.counts.retrying) == (10, 2, 2)
    assert row.counts.skipped == {Skip.ANONYMOUS: 3}
    assert row.connection_ids == list(services.registry.snapshot().connections)


def test_a_stream_is_shown_once_with_all_its_connections(services, stream):
    for audience, name in (3, "members"), (2, "members"), (4, "others"):
        services.registry.connect(audience_id=audience, configuration="main", delivery_stream_name=name)

    members, others = services.status.read(nothing_waits).rows

    assert [identifier.split("-")[0] for identifier in members.connection_ids] == ["1", "2", "3"]
    assert [identifier.split("-")[0] for identifier in others.connection_ids] == ["4"]


@pytest.mark.parametrize(
    ("reason", "pause"),
    [(OPERATOR, "paused by an operator"), (AlertType.ACCESS_DENIED, "Access Denied")],
)
def test_a_paused_stream_says_why(services, stream, reason, pause):
    services.circuit_breakers.pause(stream, reason)

    table = services.status.read(nothing_waits)

    assert reason_label(table.rows[0].breaker) == pause
    assert table.rows[0].breaker.since == "2023-11-14T22:13:20+00:00"
    assert (table.rows[0].state, table.rows[0].being_tried) == (StreamState.PAUSED, False)
    assert (table.paused, table.failing) == (1, 0)


def test_a_failing_stream_is_not_a_paused_one(services, stream):
    fail(services, stream)

    table = services.status.read(nothing_waits)

    assert (table.rows[0].state, table.rows[0].being_tried) == (StreamState.FAILING, False)
    assert (table.paused, table.failing) == (0, 1)


def test_a_failing_stream_flows_when_firehose_has_accepted_a_probe(services, stream, clock):
    fail(services, stream)
    clock.now = services.circuit_breakers.get(stream).until

    def shown():
        (row,) = services.status.read(nothing_waits).rows
        return row.state, row.being_tried

    assert shown() == (StreamState.FAILING, True), "the next batch will try it"
    services.admission.acquire(stream, Cost(1, 1), services.registry.snapshot().quota(stream))
    assert shown() == (StreamState.FAILING, True), "a batch is trying it"
    fail(services, stream)
    assert shown() == (StreamState.FAILING, False), "left alone for longer"
    services.circuit_breakers.record_success(stream, services.redis)
    assert shown() == (StreamState.FLOWING, False)


def test_a_paused_stream_that_failed_before_waits_for_somebody(services, stream, clock):
    fail(services, stream)
    services.circuit_breakers.pause(stream, OPERATOR)
    clock.advance(60)

    (row,) = services.status.read(nothing_waits).rows

    assert (row.state, row.being_tried) == (StreamState.PAUSED, False)


def test_a_stream_whose_breaker_is_corrupt_is_paused(services, stream):
    services.redis.hset(PAUSED_KEY, stream.queue, "corrupt")

    (row,) = services.status.read(nothing_waits).rows

    assert (row.state, row.breaker.reason) == (StreamState.PAUSED, CORRUPT)


def test_a_disconnected_stream_with_dead_letters_is_shown(services, stream):
    paused = Stream("main", "us-east-1", "paused.before")
    services.circuit_breakers.pause(paused, OPERATOR)
    dead_letter(services, Stream("main", "us-east-1", "dead"), records=7)

    rows = {row.stream.name: row for row in services.status.read(nothing_waits).rows}

    assert rows.keys() == {"dead", "members", "paused.before"}
    assert rows["dead"].dead == 7
    assert not rows["dead"].connection_ids
    assert rows["dead"].state == rows["paused.before"].state == StreamState.NOT_CONNECTED


def test_records_for_no_stream_are_counted_apart(services, stream):
    dead_letter(services, None, records=2)
    dead_letter(services, stream, records=3)
    services.counters.skipped({(None, Skip.NO_CONNECTION): 40})

    table = services.status.read(lambda queues: nothing_waits(queues) | {CHANGES_QUEUE: 8})

    assert (table.dead, table.all_dead, table.incoming) == (2, 5, 8)
    assert table.counts.skipped == {Skip.NO_CONNECTION: 40}


def test_without_a_broker_all_but_the_queue_lengths_is_shown(services, stream):
    def nobody_there(queues):
        raise OperationalError("away")

    services.counters.delivered(stream, accepted=10, refused=0)

    table = services.status.read(nobody_there)

    assert not table.broker_answers
    assert (table.waiting, table.rows[0].waiting) == (None, None)
    assert table.rows[0].counts.delivered == 10


def test_every_reason_for_skipping_has_a_label():
    assert SKIP_LABELS.keys() == set(Skip)


def test_a_disconnected_stream_with_records_left_is_not_forgotten(services, stream):
    services.counters.enqueued(stream, 3)
    services.registry.disconnect(*services.registry.snapshot().connections)

    (row,) = services.status.read(nothing_waits).rows

    assert (row.stream, row.connection_ids, row.in_broker) == (stream, (), 3)


def test_a_disconnected_stream_is_shown_while_its_queue_holds_messages_whatever_the_counters_are(
    services, stream
):
    services.counters.enqueued(stream, 3)
    # The first batch was delivered twice, and the second waits.
    services.counters.delivered(stream, accepted=4)
    services.registry.disconnect(*services.registry.snapshot().connections)

    (row,) = services.status.read(lambda queues: nothing_waits(queues) | {stream.queue: 1}).rows

    assert (row.stream, row.state, row.waiting) == (stream, StreamState.NOT_CONNECTED, 1)
    assert not services.status.read(nothing_waits).rows


def test_a_disconnected_stream_that_left_nothing_is_not_shown_because_the_broker_is_away(services, stream):
    def nobody_there(queues):
        raise OperationalError("away")

    left = stream._replace(name="left")
    for delivered, gone in (3, stream), (2, left):
        services.counters.enqueued(gone, 3)
        services.counters.delivered(gone, accepted=delivered)
    services.registry.disconnect(*services.registry.snapshot().connections)

    assert [row.stream for row in services.status.read(nobody_there).rows] == [left]


def test_a_disconnected_stream_neither_pauses_nor_fails(services, stream):
    paused = stream._replace(name="paused")
    services.registry.disconnect(*services.registry.snapshot().connections)
    for disconnected in stream, paused:
        services.counters.enqueued(disconnected, 3)
    fail(services, stream)
    services.circuit_breakers.pause(paused, OPERATOR)

    table = services.status.read(lambda queues: dict.fromkeys(queues, 1))

    assert [row.state for row in table.rows] == [StreamState.NOT_CONNECTED] * 2
    assert [(row.waiting, row.in_broker) for row in table.rows] == [(1, 3)] * 2
    assert (table.paused, table.failing) == (0, 0)


def test_a_disconnected_stream_that_failed_and_left_nothing_is_forgotten(services, stream):
    fail(services, stream)
    services.registry.disconnect(*services.registry.snapshot().connections)

    assert not services.status.read(nothing_waits).rows
