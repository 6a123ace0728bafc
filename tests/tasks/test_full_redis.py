"""A Redis that has no room left. What it holds is still delivered or kept, and that makes room."""

import pytest
from firehose import error, fail, refuse_once
from redis.exceptions import OutOfMemoryError

from worker.burial import Case, bury, discard
from worker.failures import AlertType, Failure
from worker.firehose.quotas import Quota
from worker.queues import CHANGES_QUEUE
from worker.state.admission import Cost
from worker.state.alerts import MAX_ALERTS
from worker.state.dead_letters import Message
from worker.state.receipts import Standing

TROUBLE = Failure(AlertType.INTERNAL_SERVER_ERROR, "OutOfMemory", "nearly full")


@pytest.fixture
def redis(real_redis):
    return real_redis


@pytest.fixture
def fill(redis):
    """Have Redis be full from now on."""

    def limit():
        redis.config_set("maxmemory", 1)
        with pytest.raises(OutOfMemoryError):
            redis.set("anything", 1)

    return limit


def test_a_batch_is_delivered_once_and_counted(deliver, fill, firehose, state, stream):
    fill()
    deliver("a", "b", task_id="one")
    deliver("a", "b", task_id="one")
    assert firehose.accepted("travel") == [b"a", b"b"]
    assert state.counters.of(stream).delivered == 2
    assert not state.redis.keys("audience:claims:*")


def test_only_the_refused_are_sent_again(deliver, fill, firehose, state, stream):
    fill()
    firehose.faults.append(refuse_once(b"b"))
    deliver("a", "b", "c")
    assert firehose.accepted("travel") == [b"a", b"c", b"b"]
    assert state.counters.of(stream).retrying == 0


def test_a_failing_stream_is_left_alone(fill, state, stream):
    fill()
    ask = (stream, Cost(records=1, bytes=1), Quota(1000, 1000, 1000))
    for failures in 1, 2:
        assert state.gates.failed(stream, "Service Unavailable", 0, 0) == failures
        assert state.admission.ask(*ask).is_probe
    assert not state.admission.ask(*ask).admitted
    state.gates.not_probed(stream)
    assert state.gates.get(stream).is_tried(state.clock())


def test_what_ends_for_good_is_kept_and_told(deliver, fill, firehose, state, stream):
    fill()
    firehose.faults.append(fail(error("AccessDeniedException", 400), times=1))
    deliver("a")
    (letter,), (alert,) = state.dead_letters.all(), state.alerts.all()
    assert (letter.records, alert.dead_letter_id) == (1, letter.id)
    assert state.gates.get(stream).until is None


def test_deaths_over_a_message_are_counted(fill, state):
    fill()
    assert state.receipts.begin("one", 0, "me") is Standing.CLAIMED
    assert [state.receipts.lost("one", 0) for _ in range(2)] == [1, 2]
    assert state.receipts.begin("one", 0, "me") is Standing.CLAIMED


def test_trouble_is_told(fill, state):
    fill()
    assert not state.alerts.is_quiet_about_all("memory")
    assert state.alerts.is_quiet_about_all("memory")
    state.alerts.raise_alert(TROUBLE)
    assert [alert.message for alert in state.alerts.all()] == ["nearly full"]


def test_what_would_fill_it_more_is_refused(fill, worker, state):
    fill()
    with pytest.raises(OutOfMemoryError):
        bury(state, Case("one", Message("task", "queue", {}), TROUBLE, records=1))
    worker.send("audience.forward", {"changes": [{"no": "change"}]})
    worker.run_one(CHANGES_QUEUE)
    assert len(worker.waiting(CHANGES_QUEUE)) == 1
    assert not state.dead_letters.all()


def test_operators_register_and_disconnect_streams(fill, connect, state):
    fill()
    stream = connect()
    (identifier,) = state.registry.latest().connections_to(stream)
    state.registry.disconnect(identifier)
    assert not state.registry.latest().connections


def test_operators_acknowledge_all_alerts(fill, redis, state):
    with redis.pipeline() as pipe:
        for _ in range(MAX_ALERTS):
            state.alerts.raise_alert(TROUBLE, pipe=pipe)
        pipe.execute()
    fill()
    assert state.alerts.acknowledge_all() == MAX_ALERTS


def test_operators_close_and_open_streams(fill, state, stream):
    fill()
    state.gates.close(stream, "operator")
    assert state.gates.get(stream).reason == "operator"
    assert state.gates.open(stream)
    assert state.gates.get(stream) is None


def test_dead_letters_are_discarded(deliver, fill, firehose, state, stream):
    firehose.faults.append(fail(error("AccessDeniedException", 400), times=1))
    deliver("a")
    fill()
    (letter,) = state.dead_letters.all()
    discard(state, letter)
    assert not state.dead_letters.all()
    assert state.counters.of(stream).discarded == 1
    assert list(state.alerts.states().values()) == ["resolved"]
