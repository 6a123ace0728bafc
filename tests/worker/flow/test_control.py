"""Flow control of one worker: which messages it admits, and which queues it pauses and for how long."""

from collections import deque
from datetime import UTC, datetime
from itertools import count
from types import SimpleNamespace

import pytest
from flow import Message, StreamQueues, Timer, request
from kombu.utils import limits
from kombu.utils.limits import TokenBucket

from worker.broker.messages import read_task_call
from worker.broker.redis.delivery_runs import CALLS, CALLS_OF_A_RUN, NO_RUN, DeliveryLimit
from worker.consumer.flow_control import make_flow_control
from worker.flow.admission import PROBE_TIMEOUT_SECONDS
from worker.flow.concurrency import LIMIT_KEPT_SECONDS
from worker.flow.shared_limits import LONGEST_PAUSE_SECONDS, NEWLY_FAILING_SECONDS
from worker.queues import BYTES_HEADER, RECORDS_HEADER
from worker.state.registry import REFRESH_AFTER_SECONDS

POOL = 8
HIGHEST_LIMIT = POOL * 3 // 4
START = POOL // 4


@pytest.fixture
def consumer():
    return SimpleNamespace(
        pool=SimpleNamespace(num_processes=POOL),
        controller=SimpleNamespace(autoscaler=None),
        timer=Timer(),
        stream_queues=StreamQueues(),
        task_buckets={"audience.deliver.us-east-1": None},
        disable_rate_limits=False,
        hostname="worker1@example",
    )


@pytest.fixture
def control(consumer, services, clock):
    return make_flow_control(
        consumer,
        admission=services.admission,
        circuit_breakers=services.circuit_breakers,
        registry=services.registry,
        alerts=services.alerts,
        counters=services.counters,
        sends_ahead=False,
        clock=clock,
        monotonic=clock,
    )


@pytest.fixture
def admit(control):
    return lambda message: control.admit(message, read_task_call(message), again=None)


def test_a_message_of_a_stream_that_flows_is_admitted(admit, consumer, stream):
    message = Message(stream.queue)
    assert admit(message)
    assert not message.is_requeued
    assert not consumer.stream_queues.paused


def test_a_message_of_a_paused_stream_is_requeued_and_its_queue_is_paused(admit, consumer, services, stream):
    services.circuit_breakers.pause(stream, "operator")
    message = Message(stream.queue)
    assert not admit(message)
    assert message.is_requeued
    assert consumer.stream_queues.paused == {stream.queue}
    assert consumer.timer.waits == [LONGEST_PAUSE_SECONDS]


def test_a_pause_ends_even_if_the_broker_is_lost_as_it_begins(admit, consumer, services, stream, monkeypatch):
    def pause(queue):
        raise ConnectionError("the broker is lost")

    monkeypatch.setattr(consumer.stream_queues, "pause", pause)
    services.circuit_breakers.pause(stream, "operator")
    with pytest.raises(ConnectionError, match="lost"):
        admit(Message(stream.queue))
    assert consumer.timer.waits == [LONGEST_PAUSE_SECONDS]


def test_one_message_probes_a_stream_whose_breaker_is_half_open(admit, services, stream, clock):
    services.circuit_breakers.record_failure(stream, "500", first=1, longest=60)
    assert not admit(Message(stream.queue))
    clock.advance(1)
    assert admit(Message(stream.queue))
    assert not admit(Message(stream.queue))
    clock.advance(PROBE_TIMEOUT_SECONDS)
    assert admit(Message(stream.queue))


def test_a_stream_at_its_quota_is_paused_until_quota_is_left_again(admit, consumer, services, stream):
    quota = services.registry.snapshot().quota(stream)
    second = "x" * quota.bytes
    assert admit(Message(stream.queue, [second]))
    assert consumer.stream_queues.paused == {stream.queue}
    assert consumer.timer.waits == [pytest.approx(0.9, abs=0.01)]
    assert not admit(Message(stream.queue, ["a"]))


def test_a_stream_far_over_its_quota_tries_again_every_second_as_the_quota_may_be_raised(
    admit, consumer, services, stream
):
    quota = services.registry.snapshot().quota(stream)
    assert admit(Message(stream.queue, ["x" * quota.bytes * 60]))
    assert consumer.timer.waits == [LONGEST_PAUSE_SECONDS]


def test_a_message_of_no_stream_is_admitted_even_without_redis(admit, services, redis_server):
    redis_server.connected = False
    assert admit(Message("audience.changes"))


@pytest.fixture
def fill(control, consumer):
    """Have a stream answer until it has so many messages in the pool; their requests."""

    def fill(stream, processes=HIGHEST_LIMIT):
        inside, numbers = deque(), count()
        while len(inside) < processes:
            if stream.queue in consumer.stream_queues.paused:
                end(inside.popleft())
            inside.append(request(stream.queue, next(numbers)))
            control.message_enters(inside[-1])
        return inside

    return fill


def end(request):
    request.on_end(request)


def test_a_stream_has_three_quarters_of_the_pool_at_most(control, admit, consumer, stream, fill):
    requests = fill(stream)
    assert consumer.stream_queues.paused == {stream.queue}
    # As after the broker was lost and found.
    consumer.stream_queues.paused.clear()
    sent_ahead = Message(stream.queue)
    assert not admit(sent_ahead)
    assert sent_ahead.is_requeued
    assert consumer.stream_queues.paused == {stream.queue}
    end(requests[0])
    assert not consumer.stream_queues.paused
    control.message_enters(request(stream.queue, "last"))
    assert consumer.stream_queues.paused == {stream.queue}


def test_a_stream_starts_with_a_quarter_of_the_pool_and_gains_one_a_message(control, consumer, stream):
    requests = [request(stream.queue, number) for number in range(START + 2)]
    for entering in requests[: START - 1]:
        control.message_enters(entering)
    assert not consumer.stream_queues.paused
    control.message_enters(requests[START - 1])
    assert consumer.stream_queues.paused == {stream.queue}
    # One that leaves makes room for two.
    end(requests[0])
    control.message_enters(requests[START])
    assert not consumer.stream_queues.paused
    control.message_enters(requests[START + 1])
    assert consumer.stream_queues.paused == {stream.queue}


def test_a_stream_starts_slowly_again_after_ten_seconds_without_a_message(consumer, stream, fill, clock):
    for inside in fill(stream):
        end(inside)
    clock.advance(LIMIT_KEPT_SECONDS)
    for inside in fill(stream, START):
        assert not consumer.stream_queues.paused
        end(inside)
    clock.advance(LIMIT_KEPT_SECONDS + 1)
    fill(stream, START)
    assert consumer.stream_queues.paused == {stream.queue}


def test_a_stream_starts_with_two_processes_in_a_pool_of_four(consumer, stream, fill):
    consumer.pool.num_processes = 4
    fill(stream, 1)
    assert not consumer.stream_queues.paused
    fill(stream, 2)
    assert consumer.stream_queues.paused


def test_messages_that_celery_drops_with_a_lost_broker_no_longer_count(control, consumer, stream, fill):
    requests = fill(stream)
    begun = {requests[0].id}
    control.reconnected(begun)
    consumer.stream_queues.paused.clear()
    others = [request(stream.queue, f"other-{number}") for number in range(HIGHEST_LIMIT - 1)]
    for entering in others[:-1]:
        control.message_enters(entering)
    assert not consumer.stream_queues.paused
    control.message_enters(others[-1])
    assert consumer.stream_queues.paused == {stream.queue}


@pytest.mark.parametrize("processes", [2, 2 * POOL])
def test_a_stream_at_its_limit_is_consumed_again_when_the_pool_has_changed(consumer, stream, fill, processes):
    requests = fill(stream)
    assert consumer.stream_queues.paused
    consumer.pool.num_processes = processes
    end(requests[0])
    assert not consumer.stream_queues.paused


@pytest.fixture
def have_a_pause_pass(admit, consumer, services, stream, clock):
    """Have the stream's queue be paused for its circuit breaker, and the pause end."""

    def have_a_pause_pass(meanwhile=lambda: None):
        services.circuit_breakers.pause(stream, "operator")
        assert not admit(Message(stream.queue))
        services.circuit_breakers.resume(stream)
        meanwhile()
        clock.advance(LONGEST_PAUSE_SECONDS)
        consumer.timer.fire()

    return have_a_pause_pass


def test_a_stream_whose_limit_falls_during_a_pause_is_consumed_when_its_messages_have_ended(
    admit, consumer, stream, fill, have_a_pause_pass
):
    requests = fill(stream)
    end(requests.popleft())
    have_a_pause_pass(meanwhile=lambda: setattr(consumer.pool, "num_processes", len(requests)))
    assert not consumer.stream_queues.paused
    assert not admit(Message(stream.queue))
    assert consumer.stream_queues.paused == {stream.queue}
    for inside in requests:
        end(inside)
    assert not consumer.stream_queues.paused


def test_with_autoscale_the_limits_count_the_processes_that_the_pool_may_have(consumer, stream, fill):
    consumer.pool.num_processes = POOL // 2
    consumer.controller.autoscaler = SimpleNamespace(max_concurrency=POOL)
    requests = fill(stream)
    assert consumer.stream_queues.paused == {stream.queue}
    end(requests[0])
    assert not consumer.stream_queues.paused


def test_celerys_own_tasks_do_not_count_as_they_do_not_report_their_end(control, consumer, stream):
    for number in range(POOL):
        control.message_enters(SimpleNamespace(delivery_info={"routing_key": stream.queue}, id=str(number)))
    assert not consumer.stream_queues.paused


def test_a_stream_at_its_limit_is_consumed_again_after_its_messages_were_dropped_with_the_broker(
    control, consumer, stream, fill, have_a_pause_pass
):
    fill(stream)
    control.reconnected(set())
    assert not consumer.stream_queues.paused
    have_a_pause_pass()
    assert not consumer.stream_queues.paused


@pytest.fixture
def probe(control, admit, services):
    """Have a batch probe a failing stream; its request, or None where it is not admitted."""

    def probe(failing, number):
        if not admit(Message(failing.queue, number=number)):
            return None
        probing = request(failing.queue, number)
        control.message_enters(probing)
        return probing

    return probe


@pytest.fixture
def fail(services, clock):
    """Have streams fail so many seconds ago."""

    def fail(*streams, seconds=1):
        for failing in streams:
            services.circuit_breakers.record_failure(failing, "500", first=1, longest=60)
        clock.advance(seconds)
        return streams

    return fail


@pytest.fixture
def silent(stream, fail):
    """Streams that have been failing for long, and may be probed."""
    return fail(
        *(stream._replace(name=f"silent-{number}") for number in range(3)), seconds=NEWLY_FAILING_SECONDS
    )


def test_probes_have_a_quarter_of_the_pool(admit, stream, silent, probe):
    first, second, third = silent
    probing = probe(first, 1)
    assert probe(second, 2)
    assert not probe(third, 3)
    assert admit(Message(stream.queue))
    end(probing)
    assert probe(third, 3)


def test_a_probe_ends_with_its_message_although_other_messages_of_its_stream_go_on(
    control, services, silent, probe
):
    first, second, third = silent
    probing = probe(first, 1)
    assert probe(second, 2)
    services.circuit_breakers.resume(first)
    control.message_enters(request(first.queue, 4))
    end(probing)
    assert probe(third, 3)


def test_a_newly_failing_stream_is_probed_beside_those_that_do_not_answer(stream, fail, silent, probe):
    for number, failing in enumerate(silent):
        probe(failing, number)
    first, second = fail(stream, stream._replace(name="second"))
    assert probe(first, 10)
    # There is room for one of them.
    assert not probe(second, 11)


def test_probes_have_half_of_a_small_pool_at_most(consumer, stream, fail, silent, probe):
    consumer.pool.num_processes = 3
    assert probe(silent[0], 1)
    fail(stream)
    assert not probe(stream, 2)


def test_a_pool_of_three_has_no_concurrency_limit(control, consumer, stream):
    consumer.pool.num_processes = 3
    for number in range(3):
        control.message_enters(request(stream.queue, number))
    assert not consumer.stream_queues.paused


def test_a_message_that_ends_does_not_resume_a_queue_that_is_paused_for_another_reason(
    control, admit, consumer, services, stream
):
    services.circuit_breakers.pause(stream, "operator")
    admit(Message(stream.queue))
    requests = [request(stream.queue, number) for number in range(START)]
    for entering in requests:
        control.message_enters(entering)
    end(requests[0])
    assert consumer.stream_queues.paused == {stream.queue}


def test_streams_over_the_rate_limit_are_requeued_and_wait_one_behind_the_other(admit, consumer, stream):
    bucket = consumer.task_buckets[stream.task] = TokenBucket(1)
    assert bucket.can_consume(1)
    queues = [stream.queue, stream._replace(name="second").queue]
    messages = [Message(queue) for queue in queues]
    assert not any(map(admit, messages))
    assert all(message.is_requeued for message in messages)
    assert consumer.timer.waits == [pytest.approx(1, abs=0.1), pytest.approx(2, abs=0.1)]


@pytest.fixture
def bucket(control, consumer, stream, clock, monkeypatch):
    """Where Celery counts fifty calls a second of the stream's task, by a clock that stands still."""
    monkeypatch.setattr(limits, "monotonic", clock)
    bucket = consumer.task_buckets[stream.task] = TokenBucket(50)
    control.rate_limits_changed()
    return bucket


def test_an_admitted_message_never_waits_for_a_token_in_the_worker(admit, stream, clock, bucket):
    assert admit(Message(stream.queue))
    assert bucket.can_consume(1)
    clock.advance(0.9 / bucket.fill_rate)
    assert not admit(Message(stream.queue))
    clock.advance(0.2 / bucket.fill_rate)
    assert admit(Message(stream.queue))
    assert bucket.can_consume(1)


def test_a_stream_that_takes_the_last_token_waits_behind_the_others(admit, consumer, stream, bucket):
    other = stream._replace(name="other")
    assert admit(Message(stream.queue))
    assert bucket.can_consume(1)
    assert not admit(Message(other.queue))
    assert consumer.stream_queues.paused == {stream.queue, other.queue}
    assert consumer.timer.waits == [pytest.approx(0.02), pytest.approx(0.04)]


def test_a_message_that_rabbitmq_sent_ahead_does_not_move_its_stream_back(admit, consumer, stream, bucket):
    assert bucket.can_consume(1)
    assert not admit(Message(stream.queue))
    ahead = Message(stream.queue)
    assert not admit(ahead)
    assert ahead.is_requeued
    assert consumer.timer.waits == [pytest.approx(0.02)]


def test_no_message_overtakes_those_that_celery_keeps_waiting_for_a_token(admit, stream, clock, bucket):
    bucket.add("a call whose time has come")
    assert not admit(Message(stream.queue))


def test_messages_that_come_a_little_late_lose_no_tokens(admit, stream, clock, bucket):
    late = 0.09
    passed = 0
    for _ in range(20):
        clock.advance(late)
        while admit(Message(stream.queue)):
            assert bucket.can_consume(1)
            passed += 1
    assert passed == pytest.approx(20 * late * bucket.fill_rate, abs=2)


def test_no_stream_waits_for_a_rate_limit_that_was_changed(control, admit, consumer, stream):
    bucket = consumer.task_buckets[stream.task] = TokenBucket(1 / 3600)
    assert bucket.can_consume(1)
    assert not admit(Message(stream.queue))
    consumer.task_buckets[stream.task] = None
    control.rate_limits_changed()
    assert not consumer.stream_queues.paused
    assert admit(Message(stream.queue))
    consumer.timer.fire()
    assert not consumer.stream_queues.paused


def test_a_worker_without_rate_limits_has_none(consumer, services, stream, clock):
    consumer.disable_rate_limits = True
    control = make_flow_control(
        consumer,
        admission=services.admission,
        circuit_breakers=services.circuit_breakers,
        registry=services.registry,
        alerts=services.alerts,
        counters=services.counters,
        sends_ahead=False,
        clock=clock,
        monotonic=clock,
    )
    bucket = consumer.task_buckets[stream.task] = TokenBucket(1)
    assert bucket.can_consume(1)
    message = Message(stream.queue)
    assert control.admit(message, read_task_call(message), again=None)


def at(seconds):
    """A time as Celery writes it."""
    return datetime.fromtimestamp(seconds, UTC).isoformat()


def test_a_message_before_its_eta_is_delayed_in_the_broker(admit, stream, clock):
    message = Message(stream.queue, eta=at(clock.now + 3600))
    assert not admit(message)
    assert message.channel.delayed == {"tag": clock.now + 3600}
    assert not message.is_requeued


def test_a_message_after_its_eta_does_not_wait(admit, stream, clock):
    message = Message(stream.queue, eta=at(clock.now - 1))
    assert admit(message)
    assert message.headers["eta"] is None


def test_where_a_broker_cannot_delay_messages_celery_waits(admit, stream, clock):
    message = Message(stream.queue, eta=at(clock.now + 3600))
    message.channel = object()
    assert admit(message)
    assert message.headers["eta"]


def test_while_the_broker_has_no_room_celery_waits(admit, stream, clock):
    message = Message(stream.queue, eta=at(clock.now + 3600))
    message.channel.has_room = False
    assert admit(message)
    assert message.headers["eta"]


def test_without_redis_a_message_is_requeued(admit, consumer, stream, redis_server):
    redis_server.connected = False
    message = Message(stream.queue)
    assert not admit(message)
    assert message.is_requeued
    assert consumer.timer.waits == [LONGEST_PAUSE_SECONDS]


@pytest.mark.parametrize("records", [None, 5, [5], [["a", 5]]])
def test_a_call_that_is_no_delivery_is_admitted_for_its_task_to_dead_letter(admit, stream, records):
    assert admit(Message(stream.queue, records))


@pytest.fixture
def run():
    """A run of a stream's deliveries with so many calls."""

    def run(queue, calls=2, records=10, size=100):
        found = Message(queue)
        found.payload = [[], {CALLS: [["tag"]] * calls}, {}]
        found.headers |= {RECORDS_HEADER: records, BYTES_HEADER: size}
        return found

    return run


def test_a_run_may_hold_a_tenth_of_a_second_s_quota(control, services, stream):
    quota = services.registry.snapshot().quota(stream)
    limit = control.delivery_limit(stream.queue)
    assert limit == DeliveryLimit(CALLS_OF_A_RUN, quota.records // 10, quota.bytes // 10)


def test_there_are_no_runs_while_the_quota_cannot_be_looked_up(control, stream, redis_server, clock):
    redis_server.connected = False
    clock.advance(REFRESH_AFTER_SECONDS)
    assert control.delivery_limit(stream.queue) == NO_RUN


def test_a_run_takes_a_request_of_the_quota_for_each_of_its_calls(admit, consumer, services, stream, run):
    quota = services.registry.snapshot().quota(stream)
    assert admit(run(stream.queue, calls=quota.requests))
    assert consumer.timer.waits == [pytest.approx(0.9, abs=0.01)]


def test_a_run_is_no_probe_and_the_first_of_its_messages_may_be(control, admit, services, stream, run):
    services.circuit_breakers.record_failure(stream, "500", first=0, longest=60)
    refused = run(stream.queue)
    assert not admit(refused)
    assert refused.is_requeued
    assert control.delivery_limit(stream.queue) == NO_RUN
    assert admit(Message(stream.queue))
    assert control.delivery_limit(stream.queue) == NO_RUN
    services.circuit_breakers.resume(stream)
    assert admit(Message(stream.queue))
    assert control.delivery_limit(stream.queue) != NO_RUN


def test_a_run_has_as_many_calls_as_there_are_tokens(control, admit, stream, run, bucket):
    assert bucket.expected_time(2) > 0
    limits.monotonic.advance(2.5 / bucket.fill_rate)
    assert control.delivery_limit(stream.queue).calls == 3
    assert admit(run(stream.queue, calls=3))
    # Celery takes the third token.
    assert bucket.can_consume(1)
    assert control.delivery_limit(stream.queue).calls == 1
    assert not admit(Message(stream.queue))
