"""The door of the pool: who may pass, who goes back, and which queue is held for how long."""

import time
from collections import deque
from datetime import UTC, datetime, timedelta
from itertools import count
from types import SimpleNamespace

import pytest
from kombu.utils import limits
from kombu.utils.limits import TokenBucket

from worker.flow import control as flow_control
from worker.flow.admission import PROBE_SECONDS
from worker.flow.control import CLOSED, NEWLY, REMEMBERED, FlowControl

POOL = 8
SHARE = POOL * 3 // 4
AT_FIRST = POOL // 4


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

    def pass_by(self):
        """All waits are over."""
        calls, self.calls = self.calls, []
        for _, function, arguments in calls:
            function(*arguments)

    @property
    def waits(self):
        return [seconds for seconds, _, _ in self.calls]


class Channel:
    """Where messages can wait for their time, while there is room."""

    def __init__(self):
        self.parked = {}
        self.has_room = True

    def delay(self, message, until):
        if self.has_room:
            self.parked[message.delivery_tag] = until
        return self.has_room


class Message:
    """A taken message."""

    def __init__(self, queue, records=("a",), eta=None, task="audience.deliver.us-east-1", number=0):
        self.delivery_info = {"routing_key": queue}
        self.headers = {"task": task, "id": str(number), "eta": eta}
        self.payload = [[], {"records": records}, {}]
        self.channel = Channel()
        self.delivery_tag = "tag"
        self.went_back = False

    def requeue(self):
        self.went_back = True


@pytest.fixture
def consumer(services):
    return SimpleNamespace(
        app=SimpleNamespace(services=services),
        pool=SimpleNamespace(num_processes=POOL),
        controller=SimpleNamespace(autoscaler=None),
        timer=Timer(),
        stream_queues=StreamQueues(),
        task_buckets={"audience.deliver.us-east-1": None},
        disable_rate_limits=False,
    )


@pytest.fixture
def door(consumer, clock):
    return FlowControl(consumer, clock)


def request(queue, number):
    return SimpleNamespace(delivery_info={"routing_key": queue}, id=str(number), on_end=None)


def test_an_open_streams_message_passes(door, consumer, stream):
    message = Message(stream.queue)
    assert door.admits(message)
    assert not message.went_back
    assert not consumer.stream_queues.held


def test_a_closed_streams_message_goes_back_and_its_queue_is_held(door, consumer, services, stream):
    services.circuit_breakers.pause(stream, "operator")
    message = Message(stream.queue)
    assert not door.admits(message)
    assert message.went_back
    assert consumer.stream_queues.held == {stream.queue}
    assert consumer.timer.waits == [CLOSED]


def test_a_wait_ends_even_if_the_broker_is_lost_as_it_begins(door, consumer, services, stream, monkeypatch):
    def hold(queue):
        raise ConnectionError("the broker is lost")

    monkeypatch.setattr(consumer.stream_queues, "hold", hold)
    services.circuit_breakers.pause(stream, "operator")
    with pytest.raises(ConnectionError, match="lost"):
        door.admits(Message(stream.queue))
    assert consumer.timer.waits == [CLOSED]


def test_one_message_probes_a_stream_whose_time_is_over(door, services, stream, clock):
    services.circuit_breakers.record_failure(stream, "500", first=1, longest=60)
    assert not door.admits(Message(stream.queue))
    clock.advance(1)
    assert door.admits(Message(stream.queue))
    assert not door.admits(Message(stream.queue))
    clock.advance(PROBE_SECONDS)
    assert door.admits(Message(stream.queue))


def test_a_stream_at_its_quota_is_held_until_it_has_some_again(door, consumer, services, stream):
    quota = services.registry.snapshot().quota(stream)
    second = "x" * quota.bytes
    assert door.admits(Message(stream.queue, [second]))
    assert consumer.stream_queues.held == {stream.queue}
    assert consumer.timer.waits == [pytest.approx(0.9, abs=0.01)]
    assert not door.admits(Message(stream.queue, ["a"]))


def test_a_stream_far_over_its_quota_asks_every_second_as_that_may_be_raised(
    door, consumer, services, stream
):
    quota = services.registry.snapshot().quota(stream)
    assert door.admits(Message(stream.queue, ["x" * quota.bytes * 60]))
    assert consumer.timer.waits == [CLOSED]


def test_other_queues_are_not_asked_about(door, services, redis_server):
    redis_server.connected = False
    assert door.admits(Message("audience.changes"))


@pytest.fixture
def fill(door, consumer):
    """Have the pool take of a stream's messages what it may, while the stream answers; its requests."""

    def fill(stream, processes=SHARE):
        inside, numbers = deque(), count()
        while len(inside) < processes:
            if stream.queue in consumer.stream_queues.held:
                leave(inside.popleft())
            inside.append(request(stream.queue, next(numbers)))
            door.enter(inside[-1], print)
        return inside

    return fill


def leave(request):
    request.on_end(request)


def test_no_stream_has_the_whole_pool(door, consumer, stream, fill):
    requests = fill(stream)
    assert consumer.stream_queues.held == {stream.queue}
    # As after the broker was lost and found.
    consumer.stream_queues.held.clear()
    sent_ahead = Message(stream.queue)
    assert not door.admits(sent_ahead)
    assert sent_ahead.went_back
    assert consumer.stream_queues.held == {stream.queue}
    leave(requests[0])
    assert not consumer.stream_queues.held
    door.enter(request(stream.queue, "last"), print)
    assert consumer.stream_queues.held == {stream.queue}


def test_a_stream_that_has_not_answered_yet_has_a_quarter_of_the_pool(door, consumer, stream):
    requests = [request(stream.queue, number) for number in range(AT_FIRST + 2)]
    for entering in requests[: AT_FIRST - 1]:
        door.enter(entering, print)
    assert not consumer.stream_queues.held
    door.enter(requests[AT_FIRST - 1], print)
    assert consumer.stream_queues.held == {stream.queue}
    # One that leaves makes room for two.
    leave(requests[0])
    door.enter(requests[AT_FIRST], print)
    assert not consumer.stream_queues.held
    door.enter(requests[AT_FIRST + 1], print)
    assert consumer.stream_queues.held == {stream.queue}


def test_a_stream_that_is_long_out_of_the_pool_begins_with_a_quarter_again(consumer, stream, fill, clock):
    for inside in fill(stream):
        leave(inside)
    clock.advance(REMEMBERED)
    for inside in fill(stream, AT_FIRST):
        assert not consumer.stream_queues.held
        leave(inside)
    clock.advance(REMEMBERED + 1)
    fill(stream, AT_FIRST)
    assert consumer.stream_queues.held == {stream.queue}


def test_a_small_pool_gives_a_stream_two_processes_at_first(consumer, stream, fill):
    consumer.pool.num_processes = 4
    fill(stream, 1)
    assert not consumer.stream_queues.held
    fill(stream, 2)
    assert consumer.stream_queues.held


def test_what_is_dropped_with_a_lost_broker_leaves_the_pool(door, consumer, stream, fill, monkeypatch):
    requests = fill(stream)
    begun = {requests[0].id: "a request that a pool process has begun"}
    monkeypatch.setattr(flow_control, "requests", begun)
    door.reconnected()
    consumer.stream_queues.held.clear()
    others = [request(stream.queue, f"other-{number}") for number in range(SHARE - 1)]
    for entering in others[:-1]:
        door.enter(entering, print)
    assert not consumer.stream_queues.held
    door.enter(others[-1], print)
    assert consumer.stream_queues.held == {stream.queue}


@pytest.mark.parametrize("processes", [2, 2 * POOL])
def test_a_stream_flows_again_in_a_pool_that_has_grown_or_shrunk(consumer, stream, fill, processes):
    requests = fill(stream)
    assert consumer.stream_queues.held
    consumer.pool.num_processes = processes
    leave(requests[0])
    assert not consumer.stream_queues.held


def test_a_stream_that_waits_while_the_pool_shrinks_flows_when_one_leaves(door, consumer, stream, fill):
    requests = fill(stream)
    leave(requests.popleft())
    door._hold(stream.queue, 0)
    consumer.pool.num_processes = len(requests)
    consumer.timer.pass_by()
    assert consumer.stream_queues.held == {stream.queue}
    for inside in requests:
        leave(inside)
    assert not consumer.stream_queues.held


def test_a_pool_that_may_grow_is_shared_as_if_it_had(consumer, stream, fill):
    consumer.pool.num_processes = POOL // 2
    consumer.controller.autoscaler = SimpleNamespace(max_concurrency=POOL)
    requests = fill(stream)
    assert consumer.stream_queues.held == {stream.queue}
    leave(requests[0])
    assert not consumer.stream_queues.held


def test_celerys_own_tasks_do_not_count_as_they_do_not_tell_of_their_end(door, consumer, stream):
    ran = []
    for number in range(POOL):
        door.enter(SimpleNamespace(delivery_info={"routing_key": stream.queue}, id=str(number)), ran.append)
    assert len(ran) == POOL
    assert not consumer.stream_queues.held


@pytest.fixture
def probe(door, services):
    """Have a batch try a failing stream; its request, or None where it may not pass."""

    def probe(failing, number):
        if not door.admits(Message(failing.queue, number=number)):
            return None
        probing = request(failing.queue, number)
        door.enter(probing, print)
        return probing

    return probe


@pytest.fixture
def fail(services, clock):
    """Have streams fail, as many seconds ago."""

    def fail(*streams, seconds=1):
        for failing in streams:
            services.circuit_breakers.record_failure(failing, "500", first=1, longest=60)
        clock.advance(seconds)
        return streams

    return fail


@pytest.fixture
def silent(stream, fail):
    """Streams that have been failing for long, and may be tried."""
    return fail(*(stream._replace(name=f"silent-{number}") for number in range(3)), seconds=NEWLY)


def test_probes_have_a_quarter_of_the_pool(door, stream, silent, probe):
    first, second, third = silent
    probing = probe(first, 1)
    assert probe(second, 2)
    assert not probe(third, 3)
    assert door.admits(Message(stream.queue))
    leave(probing)
    assert probe(third, 3)


def test_a_probe_ends_when_it_leaves_though_its_stream_is_never_out_of_the_pool(
    door, services, silent, probe
):
    first, second, third = silent
    probing = probe(first, 1)
    assert probe(second, 2)
    services.circuit_breakers.resume(first)
    door.enter(request(first.queue, 4), print)
    leave(probing)
    assert probe(third, 3)


def test_a_stream_that_fails_newly_does_not_wait_for_those_that_do_not_answer(stream, fail, silent, probe):
    for number, failing in enumerate(silent):
        probe(failing, number)
    first, second = fail(stream, stream._replace(name="second"))
    assert probe(first, 10)
    # There is room for one of them.
    assert not probe(second, 11)


def test_probes_have_less_than_half_of_a_small_pool(consumer, stream, fail, silent, probe):
    consumer.pool.num_processes = 3
    assert probe(silent[0], 1)
    fail(stream)
    assert not probe(stream, 2)


def test_a_small_pool_is_not_shared(door, consumer, stream):
    consumer.pool.num_processes = 3
    for number in range(3):
        door.enter(request(stream.queue, number), lambda _: None)
    assert not consumer.stream_queues.held


def test_who_leaves_does_not_release_a_queue_that_is_held_for_longer(door, consumer, services, stream):
    services.circuit_breakers.pause(stream, "operator")
    door.admits(Message(stream.queue))
    requests = [request(stream.queue, number) for number in range(AT_FIRST)]
    for entering in requests:
        door.enter(entering, print)
    leave(requests[0])
    assert consumer.stream_queues.held == {stream.queue}


def test_what_is_over_the_workers_own_rate_limit_goes_back_and_waits_in_line(door, consumer, stream):
    bucket = consumer.task_buckets[stream.task] = TokenBucket(1)
    assert bucket.can_consume(1)
    queues = [stream.queue, stream._replace(name="second").queue]
    messages = [Message(queue) for queue in queues]
    assert not any(map(door.admits, messages))
    assert all(message.went_back for message in messages)
    assert consumer.timer.waits == [pytest.approx(1, abs=0.1), pytest.approx(2, abs=0.1)]


@pytest.fixture
def bucket(door, consumer, stream, clock, monkeypatch):
    """Where Celery counts fifty calls a second of the stream's task, by a clock that stands still."""
    monkeypatch.setattr(limits, "monotonic", clock)
    bucket = consumer.task_buckets[stream.task] = TokenBucket(50)
    door.rate_limits_changed()
    return bucket


def test_what_passes_never_waits_for_a_token_in_the_worker(door, stream, clock, bucket):
    assert door.admits(Message(stream.queue))
    assert bucket.can_consume(1)
    clock.advance(0.9 / bucket.fill_rate)
    assert not door.admits(Message(stream.queue))
    clock.advance(0.2 / bucket.fill_rate)
    assert door.admits(Message(stream.queue))
    assert bucket.can_consume(1)


def test_who_takes_the_last_token_goes_to_the_end_of_the_line(door, consumer, stream, bucket):
    other = stream._replace(name="other")
    assert door.admits(Message(stream.queue))
    assert bucket.can_consume(1)
    assert not door.admits(Message(other.queue))
    assert consumer.stream_queues.held == {stream.queue, other.queue}
    assert consumer.timer.waits == [pytest.approx(0.02), pytest.approx(0.04)]


def test_a_message_that_was_sent_ahead_does_not_move_its_stream_back(door, consumer, stream, bucket):
    assert bucket.can_consume(1)
    assert not door.admits(Message(stream.queue))
    ahead = Message(stream.queue)
    assert not door.admits(ahead)
    assert ahead.went_back
    assert consumer.timer.waits == [pytest.approx(0.02)]


def test_nobody_overtakes_what_celery_has_waiting_for_a_token(door, stream, clock, bucket):
    bucket.add("a call whose time has come")
    assert not door.admits(Message(stream.queue))


def test_messages_that_come_a_little_late_lose_no_tokens(door, stream, clock, bucket):
    late = 0.09
    passed = 0
    for _ in range(20):
        clock.advance(late)
        while door.admits(Message(stream.queue)):
            assert bucket.can_consume(1)
            passed += 1
    assert passed == pytest.approx(20 * late * bucket.fill_rate, abs=2)


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
