"""The door of the pool: who may pass, who goes back, and which queue is held for how long."""

import time
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace

import pytest
from kombu.utils.limits import TokenBucket

from worker import flow_control
from worker.flow_control import CLOSED, FlowControl
from worker.state.admission import PROBE_SECONDS

POOL = 8


class StreamQueues:
    """Says which queues are held."""

    def __init__(self):
        self.held = set()

    def hold(self, queue):
        self.held.add(queue)

    def release(self, queue):
        self.held.discard(queue)


class Timer:
    """Notes what is to be called, and when."""

    def __init__(self):
        self.calls = []

    def call_after(self, seconds, function, arguments):
        self.calls.append((seconds, function, arguments))

    @property
    def waits(self):
        return [seconds for seconds, _, _ in self.calls]


class Channel:
    """Where messages can wait for their time, while there is room."""

    def __init__(self):
        self.parked = {}
        self.has_room = True

    def park(self, message, until):
        if self.has_room:
            self.parked[message.delivery_tag] = until
        return self.has_room


class Message:
    """A taken message."""

    def __init__(self, queue, records=("a",), eta=None, task="audience.deliver.us-east-1"):
        self.delivery_info = {"routing_key": queue}
        self.headers = {"task": task, "eta": eta}
        self.payload = [[], {"records": records}, {}]
        self.channel = Channel()
        self.delivery_tag = "tag"
        self.went_back = False

    def requeue(self):
        self.went_back = True


@pytest.fixture
def consumer(state):
    return SimpleNamespace(
        app=SimpleNamespace(state=state),
        pool=SimpleNamespace(num_processes=POOL),
        timer=Timer(),
        stream_queues=StreamQueues(),
        task_buckets={"audience.deliver.us-east-1": None},
        disable_rate_limits=False,
    )


@pytest.fixture
def door(consumer):
    return FlowControl(consumer)


def request(queue, number):
    return SimpleNamespace(delivery_info={"routing_key": queue}, id=str(number), on_end=None)


def test_an_open_streams_message_passes(door, consumer, stream):
    message = Message(stream.queue)
    assert door.admits(message)
    assert not message.went_back
    assert not consumer.stream_queues.held


def test_a_closed_streams_message_goes_back_and_its_queue_is_held(door, consumer, state, stream):
    state.gates.close(stream, "operator")
    message = Message(stream.queue)
    assert not door.admits(message)
    assert message.went_back
    assert consumer.stream_queues.held == {stream.queue}
    assert consumer.timer.waits == [CLOSED]


def test_one_message_probes_a_stream_whose_time_is_over(door, state, stream, clock):
    state.gates.failed(stream, "500", first=1, longest=60)
    assert not door.admits(Message(stream.queue))
    clock.advance(1)
    assert door.admits(Message(stream.queue))
    assert not door.admits(Message(stream.queue))
    clock.advance(PROBE_SECONDS)
    assert door.admits(Message(stream.queue))


def test_a_stream_at_its_quota_is_held_until_it_has_some_again(door, consumer, state, stream):
    quota = state.registry.snapshot().quota(stream)
    second = "x" * quota.bytes
    assert door.admits(Message(stream.queue, [second]))
    assert consumer.stream_queues.held == {stream.queue}
    assert consumer.timer.waits == [pytest.approx(0.9, abs=0.01)]
    assert not door.admits(Message(stream.queue, ["a"]))


def test_other_queues_are_not_asked_about(door, state, redis_server):
    redis_server.connected = False
    assert door.admits(Message("audience.changes"))


def test_no_stream_has_the_whole_pool(door, consumer, stream):
    ran = []
    requests = [request(stream.queue, number) for number in range(POOL * 3 // 4)]
    for entering in requests[:-1]:
        door.enter(entering, ran.append)
    assert not consumer.stream_queues.held
    door.enter(requests[-1], ran.append)
    assert ran == requests
    assert consumer.stream_queues.held == {stream.queue}
    # As after the broker was lost and found.
    consumer.stream_queues.held.clear()
    sent_ahead = Message(stream.queue)
    assert not door.admits(sent_ahead)
    assert sent_ahead.went_back
    assert consumer.stream_queues.held == {stream.queue}
    requests[0].on_end(requests[0])
    assert not consumer.stream_queues.held


def test_what_is_dropped_with_a_lost_broker_leaves_the_pool(door, consumer, stream, monkeypatch):
    share = POOL * 3 // 4
    for number in range(share):
        door.enter(request(stream.queue, number), print)
    begun = {"0": "a request that a pool process has begun"}
    monkeypatch.setattr(flow_control, "requests", begun)
    door.reconnected()
    consumer.stream_queues.held.clear()
    for number in range(share, 2 * share - 2):
        door.enter(request(stream.queue, number), print)
    assert not consumer.stream_queues.held
    door.enter(request(stream.queue, 2 * share), print)
    assert consumer.stream_queues.held == {stream.queue}


@pytest.mark.parametrize("processes", [2, 2 * POOL])
def test_a_stream_flows_again_in_a_pool_that_has_grown_or_shrunk(door, consumer, stream, processes):
    requests = [request(stream.queue, number) for number in range(POOL * 3 // 4)]
    for entering in requests:
        door.enter(entering, print)
    assert consumer.stream_queues.held
    consumer.pool.num_processes = processes
    requests[0].on_end(requests[0])
    assert not consumer.stream_queues.held


def test_probes_have_a_quarter_of_the_pool(door, state, stream, clock):
    streams = [stream._replace(name=f"silent-{number}") for number in range(3)]
    for silent in streams:
        state.gates.failed(silent, "timeout", first=1, longest=60)
    clock.advance(1)
    first, second, third = (Message(silent.queue) for silent in streams)
    probe = request(streams[0].queue, 0)
    for message, entering in ((first, probe), (second, request(streams[1].queue, 1))):
        assert door.admits(message)
        door.enter(entering, print)
    assert not door.admits(third)
    assert door.admits(Message(stream.queue))
    probe.on_end(probe)
    assert door.admits(third)


def test_a_small_pool_is_not_shared(door, consumer, stream):
    consumer.pool.num_processes = 3
    for number in range(3):
        door.enter(request(stream.queue, number), lambda _: None)
    assert not consumer.stream_queues.held


def test_who_leaves_does_not_release_a_queue_that_is_held_for_longer(door, consumer, state, stream):
    state.gates.close(stream, "operator")
    door.admits(Message(stream.queue))
    requests = [request(stream.queue, number) for number in range(POOL * 3 // 4)]
    for entering in requests:
        door.enter(entering, lambda _: None)
    requests[0].on_end(requests[0])
    assert consumer.stream_queues.held == {stream.queue}


def test_what_is_over_the_workers_own_rate_limit_goes_back_and_waits_in_line(door, consumer, stream):
    bucket = consumer.task_buckets[stream.task] = TokenBucket(1)
    assert bucket.can_consume(1)
    queues = [stream.queue, stream._replace(name="second").queue]
    messages = [Message(queue) for queue in queues]
    assert not any(map(door.admits, messages))
    assert all(message.went_back for message in messages)
    assert consumer.timer.waits == [pytest.approx(1, abs=0.1), pytest.approx(2, abs=0.1)]


def test_nobody_waits_for_a_rate_limit_that_was_changed(door, consumer, stream):
    bucket = consumer.task_buckets[stream.task] = TokenBucket(1 / 3600)
    assert bucket.can_consume(1)
    assert not door.admits(Message(stream.queue))
    consumer.task_buckets[stream.task] = None
    door.rate_limits_changed()
    assert not consumer.stream_queues.held
    assert door.admits(Message(stream.queue))
    ((_, end_hold, arguments),) = consumer.timer.calls
    end_hold(*arguments)
    assert not consumer.stream_queues.held


def test_a_worker_without_rate_limits_has_none(door, consumer, stream):
    consumer.disable_rate_limits = True
    bucket = consumer.task_buckets[stream.task] = TokenBucket(1)
    assert bucket.can_consume(1)
    assert door.admits(Message(stream.queue))


def test_a_message_whose_time_has_not_come_is_parked(door, stream):
    eta = datetime.now(UTC) + timedelta(hours=1)
    message = Message(stream.queue, eta=eta.isoformat())
    assert not door.admits(message)
    assert message.channel.parked == {"tag": pytest.approx(eta.timestamp())}
    assert not message.went_back


def test_a_message_whose_time_has_come_does_not_wait(door, stream):
    message = Message(stream.queue, eta=datetime.fromtimestamp(time.time() - 1, UTC).isoformat())
    assert door.admits(message)
    assert message.headers["eta"] is None


def test_where_a_broker_cannot_park_celery_waits(door, stream):
    message = Message(stream.queue, eta=(datetime.now(UTC) + timedelta(hours=1)).isoformat())
    message.channel = object()
    assert door.admits(message)
    assert message.headers["eta"]


def test_while_the_broker_has_no_room_celery_waits(door, stream):
    message = Message(stream.queue, eta=(datetime.now(UTC) + timedelta(hours=1)).isoformat())
    message.channel.has_room = False
    assert door.admits(message)
    assert message.headers["eta"]


def test_where_redis_is_away_a_message_goes_back(door, consumer, stream, redis_server):
    redis_server.connected = False
    message = Message(stream.queue)
    assert not door.admits(message)
    assert message.went_back
    assert consumer.timer.waits == [CLOSED]


@pytest.mark.parametrize("records", [None, 5, [5], [["a", 5]]])
def test_what_is_no_delivery_passes_for_its_task_to_bury(door, stream, records):
    assert door.admits(Message(stream.queue, records))
