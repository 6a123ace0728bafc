"""What `status` and the Streams page say of each stream."""

import pytest
from kombu.exceptions import OperationalError

from schemas.records import Skip
from worker.dashboard.labels import SKIP_LABELS, pause_label
from worker.failures import AlertType, Failure
from worker.overview import StreamState, overview
from worker.queues import CHANGES_QUEUE, Stream
from worker.state.admission import Cost
from worker.state.dead_letters import Message
from worker.state.gates import GATES, OPERATOR, UNREADABLE

GONE = Failure(AlertType.STREAM_NOT_FOUND, "ResourceNotFoundException", "there is no such stream")


def nothing_waits(queues):
    return dict.fromkeys(queues, 0)


@pytest.fixture
def stream(state):
    """A registered stream."""
    state.registry.configure(name="main")
    state.registry.connect(audience_id=1, configuration="main", delivery_stream_name="members")
    return Stream("main", "us-east-1", "members")


def bury(state, stream, records):
    queue = stream.queue if stream else CHANGES_QUEUE
    message = Message("audience.forward", queue, {})
    with state.redis.pipeline() as pipe:
        state.dead_letters.store(pipe, f"{queue}:{records}", message, GONE, records=records, stream=stream)
        pipe.execute()


def fail(state, stream):
    state.gates.failed(stream, AlertType.INTERNAL_SERVER_ERROR, first=10, longest=60)


def test_a_flowing_stream(state, stream):
    state.counters.delivered(stream, accepted=10, refused=2)
    state.counters.retrying(stream, "task", 2)
    state.counters.skipped({(stream, Skip.ANONYMOUS): 3})
    bury(state, stream, records=4)

    (row,) = overview(state, lambda queues: nothing_waits(queues) | {stream.queue: 5}).rows

    assert (row.stream, row.state, row.gate, row.waiting, row.dead) == (stream, "flowing", None, 5, 4)
    assert (row.counts.delivered, row.counts.refused, row.counts.retrying) == (10, 2, 2)
    assert row.counts.skipped == {Skip.ANONYMOUS: 3}
    assert row.connection_ids == list(state.registry.snapshot().connections)


def test_a_stream_is_shown_once_with_all_its_connections(state, stream):
    for audience, name in (3, "members"), (2, "members"), (4, "others"):
        state.registry.connect(audience_id=audience, configuration="main", delivery_stream_name=name)

    members, others = overview(state, nothing_waits).rows

    assert [identifier.split("-")[0] for identifier in members.connection_ids] == ["1", "2", "3"]
    assert [identifier.split("-")[0] for identifier in others.connection_ids] == ["4"]


@pytest.mark.parametrize(
    ("reason", "pause"),
    [(OPERATOR, "paused by an operator"), (AlertType.ACCESS_DENIED, "Access Denied")],
)
def test_a_paused_stream_says_why(state, stream, reason, pause):
    state.gates.close(stream, reason)

    table = overview(state, nothing_waits)

    assert pause_label(table.rows[0].gate) == pause
    assert table.rows[0].gate.since == "2023-11-14T22:13:20+00:00"
    assert (table.rows[0].state, table.rows[0].being_tried) == (StreamState.PAUSED, False)
    assert (table.paused, table.failing) == (1, 0)


def test_a_stream_that_fails_is_told_apart_from_one_that_somebody_must_resume(state, stream):
    fail(state, stream)

    table = overview(state, nothing_waits)

    assert (table.rows[0].state, table.rows[0].being_tried) == (StreamState.FAILING, False)
    assert (table.paused, table.failing) == (0, 1)


def test_a_stream_flows_no_earlier_than_it_has_taken_something(state, stream, clock):
    fail(state, stream)
    clock.now = state.gates.get(stream).until

    def shown():
        (row,) = overview(state, nothing_waits).rows
        return row.state, row.being_tried

    assert shown() == (StreamState.FAILING, True), "the next batch will try it"
    state.admission.ask(stream, Cost(1, 1), state.registry.snapshot().quota(stream))
    assert shown() == (StreamState.FAILING, True), "a batch is trying it"
    fail(state, stream)
    assert shown() == (StreamState.FAILING, False), "left alone for longer"
    state.gates.succeeded(stream, state.redis)
    assert shown() == (StreamState.FLOWING, False)


def test_a_paused_stream_that_failed_before_waits_for_somebody(state, stream, clock):
    fail(state, stream)
    state.gates.close(stream, OPERATOR)
    clock.advance(60)

    (row,) = overview(state, nothing_waits).rows

    assert (row.state, row.being_tried) == (StreamState.PAUSED, False)


def test_a_stream_whose_gate_somebody_spoilt_is_paused(state, stream):
    state.redis.hset(GATES, stream.queue, "spoilt")

    (row,) = overview(state, nothing_waits).rows

    assert (row.state, row.gate.reason) == (StreamState.PAUSED, UNREADABLE)


def test_what_a_disconnected_stream_left_is_still_shown(state, stream):
    paused = Stream("main", "us-east-1", "paused.before")
    state.gates.close(paused, OPERATOR)
    bury(state, Stream("main", "us-east-1", "dead"), records=7)

    rows = {row.stream.name: row for row in overview(state, nothing_waits).rows}

    assert rows.keys() == {"dead", "members", "paused.before"}
    assert rows["dead"].dead == 7
    assert not rows["dead"].connection_ids
    assert rows["dead"].state == rows["paused.before"].state == StreamState.NOT_CONNECTED


def test_records_for_no_stream_are_counted_apart(state, stream):
    bury(state, None, records=2)
    bury(state, stream, records=3)
    state.counters.skipped({(None, Skip.NO_CONNECTION): 40})

    table = overview(state, lambda queues: nothing_waits(queues) | {CHANGES_QUEUE: 8})

    assert (table.dead, table.all_dead, table.incoming) == (2, 5, 8)
    assert table.counts.skipped == {Skip.NO_CONNECTION: 40}


def test_a_broker_that_is_away_hides_only_what_waits_in_it(state, stream):
    def nobody_there(queues):
        raise OperationalError("away")

    state.counters.delivered(stream, accepted=10, refused=0)

    table = overview(state, nobody_there)

    assert not table.broker_answers
    assert (table.waiting, table.rows[0].waiting) == (None, None)
    assert table.rows[0].counts.delivered == 10


def test_every_reason_for_skipping_has_words():
    assert SKIP_LABELS.keys() == set(Skip)


def test_a_disconnected_stream_with_records_left_is_not_forgotten(state, stream):
    state.counters.accepted(stream, 3)
    state.registry.disconnect(*state.registry.snapshot().connections)

    (row,) = overview(state, nothing_waits).rows

    assert (row.stream, row.connection_ids, row.in_broker) == (stream, (), 3)


def test_a_disconnected_stream_is_shown_while_its_queue_holds_something_whatever_the_books_say(state, stream):
    state.counters.accepted(stream, 3)
    # The first batch was delivered twice, and the second waits.
    state.counters.delivered(stream, accepted=4)
    state.registry.disconnect(*state.registry.snapshot().connections)

    (row,) = overview(state, lambda queues: nothing_waits(queues) | {stream.queue: 1}).rows

    assert (row.stream, row.state, row.waiting) == (stream, StreamState.NOT_CONNECTED, 1)
    assert not overview(state, nothing_waits).rows


def test_a_disconnected_stream_is_not_held_to_have_left_something_by_a_broker_that_is_away(state, stream):
    def nobody_there(queues):
        raise OperationalError("away")

    left = stream._replace(name="left")
    for delivered, gone in (3, stream), (2, left):
        state.counters.accepted(gone, 3)
        state.counters.delivered(gone, accepted=delivered)
    state.registry.disconnect(*state.registry.snapshot().connections)

    assert [row.stream for row in overview(state, nobody_there).rows] == [left]


def test_a_disconnected_stream_neither_pauses_nor_fails(state, stream):
    paused = stream._replace(name="paused")
    state.registry.disconnect(*state.registry.snapshot().connections)
    for disconnected in stream, paused:
        state.counters.accepted(disconnected, 3)
    fail(state, stream)
    state.gates.close(paused, OPERATOR)

    table = overview(state, lambda queues: dict.fromkeys(queues, 1))

    assert [row.state for row in table.rows] == [StreamState.NOT_CONNECTED] * 2
    assert [(row.waiting, row.in_broker) for row in table.rows] == [(1, 3)] * 2
    assert (table.paused, table.failing) == (0, 0)


def test_a_disconnected_stream_that_failed_and_left_nothing_is_forgotten(state, stream):
    fail(state, stream)
    state.registry.disconnect(*state.registry.snapshot().connections)

    assert not overview(state, nothing_waits).rows
