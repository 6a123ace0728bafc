"""A run forwards messages together, and each ends as it would alone: `test_forward.py` runs in both ways.

Here is what only a run does. Its broker is a real Redis.
"""

import json
from contextlib import contextmanager
from random import Random
from types import SimpleNamespace

import pytest
from celery import signature
from kombu.exceptions import OperationalError
from redis.exceptions import ConnectionError

from devstack.firehose import refuse_once
from schemas.many_changes import MANY_CHANGES
from schemas.records import Skip
from tasks import base, runs
from tasks.forward import ProducerTask
from worker.broker import outbox
from worker.broker.handovers import Handovers
from worker.broker.outbox import OUTBOX, PENDING
from worker.broker.rabbitmq.publishing import Publisher
from worker.broker.rabbitmq.queues import RENEWED_AFTER_DELIVERIES
from worker.broker.redis.bodies import BODY_TAG
from worker.broker.redis.poll import LAST_SEQUENCE_NUMBER
from worker.broker.redis.reservations import COMPLETED, UNCOUNTED, Connected
from worker.broker.runs import RUN_CONTENT_BYTES, RUN_MESSAGE_BYTES
from worker.config import read_settings
from worker.consumer import request
from worker.consumer.periodic.uncounted_runs import LATE_AFTER_SECONDS, record_late
from worker.consumer.periodic.unfinished_runs import UnfinishedRuns
from worker.consumer.request import MAX_LOST_PROCESSES
from worker.queues import (
    BYTES_HEADER,
    CHANGES_QUEUE,
    FORWARD,
    FORWARD_MPARTICLE,
    FORWARD_RUN,
    RECORDS_HEADER,
    SEQUENCE_HEADER,
)
from worker.services import Services


@pytest.fixture(params=["redis", "rabbitmq"])
def broker(request):
    return request.param


@pytest.fixture
def worker(run_worker):
    return run_worker


@pytest.fixture
def redis_broker(real_redis):
    """The broker, where it is Redis."""
    return real_redis


ON_REDIS = pytest.mark.parametrize("broker", ["redis"], indirect=True)
ON_RABBITMQ = pytest.mark.parametrize("broker", ["rabbitmq"], indirect=True)


def added(customer, audience_id=1, **keys):
    return {
        "type": "member_added",
        "audience_id": audience_id,
        "audience_external_name": "Name",
        "timestamp": 7,
        "user_identities": {"CustomerId": customer},
    } | keys


def removed(customer):
    return added(customer, type="member_removed")


@pytest.fixture
def send(worker):
    """Enqueue a message for each of these changes."""

    def each(*changes, **options):
        for change in changes:
            worker.send(FORWARD, {"changes": [change]}, **options)

    return each


def customers(call):
    return [json.loads(line)["UserIdentities"]["CustomerId"] for line in lines(call)]


def lines(call):
    return [line for group in call["records"] for line in ([group] if isinstance(group, str) else group)]


def test_messages_that_wait_become_one_batch_in_one_task(worker, connect, send, services):
    stream = connect()
    send(*(added(f"user-{number}") for number in range(20)))
    assert worker.run(CHANGES_QUEUE) == 1
    (call,) = worker.calls(stream.queue)
    assert customers(call) == [f"user-{number}" for number in range(20)]
    assert services.counters.of(stream).enqueued == 20
    assert not worker.waiting(CHANGES_QUEUE)


@ON_REDIS
def test_a_run_leaves_nothing_behind_in_redis(worker, connect, send, redis_broker):
    connect()
    send(added("a"), added("b"))
    worker.run(CHANGES_QUEUE)
    assert (redis_broker.hlen("unacked"), redis_broker.hlen(UNCOUNTED)) == (0, 0)


def test_a_run_says_its_numbers_and_nothing_else(app, worker, connect, send, monkeypatch):
    connect()
    send(added("secretive"), added("secretive", 2))
    results = []
    run = runs.forward_run.run
    monkeypatch.setattr(runs.forward_run, "run", lambda tags: results.append(run(tags)) or results[-1])
    worker.run(CHANGES_QUEUE)
    assert results == [{"messages": 2, "changes": 2, "records": 1, "streams": 1}]


def test_the_records_of_a_user_in_several_messages_are_an_atomic_group(worker, connect, send):
    stream = connect()
    send(added("one"), added("other"), removed("one"))
    worker.run(CHANGES_QUEUE)
    (call,) = worker.calls(stream.queue)
    group, other = call["records"]
    assert [json.loads(line)["IsMember"] for line in group] == [True, False]
    assert isinstance(other, str)


def test_metadata_is_of_the_message_that_a_record_is_from(worker, connect, send):
    stream = connect(include_metadata=True)
    send(added("a"), added("b"))
    worker.run(CHANGES_QUEUE)
    first, second = (json.loads(line) for call in worker.calls(stream.queue) for line in lines(call))
    assert first["SequenceNumber"] < second["SequenceNumber"]
    assert {first["ChangeId"][-8:], second["ChangeId"][-8:]} == {"00000000"}
    assert first["ChangeId"] != second["ChangeId"]


def test_a_change_without_a_timestamp_bears_the_second_in_which_its_message_was_stamped(
    worker, broker, connect, send
):
    stream = connect(include_metadata=True)
    timeless = added("a")
    del timeless["timestamp"]
    send(timeless)
    worker.run(CHANGES_QUEUE)
    (call,) = worker.calls(stream.queue)
    record = json.loads(lines(call)[0])
    stamped, borne = int(record["SequenceNumber"][:10]), int(record["MembershipChangedTimestamp"])
    # Over RabbitMQ a run draws the number itself, after it has read its clock: at times in the next second.
    assert stamped - borne in ([0] if broker == "redis" else [0, 1])


def test_each_change_without_a_timestamp_bears_the_time_of_its_own_message(worker, connect, send):
    stream = connect()
    timeless = {key: value for key, value in added("a").items() if key != "timestamp"}
    seconds = [1_700_000_000, 1_700_000_001]
    for _ in ("each is checked alone", "all are checked together"):
        for second in seconds:
            change = timeless | {"user_identities": {"CustomerId": str(second)}}
            worker.send(
                FORWARD, {"changes": [added("c"), change]}, headers={SEQUENCE_HEADER: f"{second}000000"}
            )
        worker.run(CHANGES_QUEUE)
        call = worker.calls(stream.queue)[-1]
        sent = [int(json.loads(line)["MembershipChangedTimestamp"]) for line in lines(call)]
        assert sent == [7, 7, *seconds]


def test_messages_that_no_run_can_forward_hold_up_none_of_the_others(worker, connect, send, services):
    stream = connect()
    send(added("a"))
    worker.send(FORWARD, {"changes": [added("b"), {"type": "secretive"}]})
    worker.send("audience.unknown", {})
    worker.send(FORWARD_MPARTICLE, {"request": "secretive"})
    worker.send(FORWARD_MPARTICLE, {"request": "secretive" * runs.MPARTICLE_RUN_BYTES})
    worker.send(FORWARD, {}, args=[[added("positional")]])
    worker.send(FORWARD, {"changes": [added("followed")]}, link=signature("audience.unknown"))
    worker.send(FORWARD, {"changes": [added("of odd headers")]}, headers={"retries": "none"})
    worker.send(FORWARD, {"changes": [added("of the future")]}, countdown=3600)
    send(added("c"))
    worker.run_one(CHANGES_QUEUE)
    (call,) = worker.calls(stream.queue)
    assert customers(call) == ["a", "c"]
    assert len(worker.waiting(CHANGES_QUEUE)) == 8
    assert not services.dead_letters.all()


@pytest.mark.parametrize("copies", [2, 3])
def test_a_message_that_waits_several_times_is_accepted_once(worker, connect, send, services, copies):
    stream = connect()
    send(*[added("a")] * copies, added("b"), task_id="one")
    worker.run(CHANGES_QUEUE)
    assert [customers(call) for call in worker.calls(stream.queue)] == [["a", "b"]]
    assert services.counters.of(None).skipped == {Skip.REPEATED: copies - 1}


@ON_REDIS
def test_half_a_surrogate_pair_makes_its_own_change_invalid(worker, connect, services):
    stream = connect()
    wrong = added("half of a pair: \ud800")
    valid = [added(f"user-{number}") for number in range(MANY_CHANGES)]
    worker.send(FORWARD, {"changes": [*valid, wrong]})
    assert worker.run(CHANGES_QUEUE) == 2
    (call,) = worker.calls(stream.queue)
    assert len(customers(call)) == MANY_CHANGES
    (letter,) = services.dead_letters.all()
    assert (letter.type, letter.records) == ("Invalid Change", 1)


def test_a_repeat_of_a_message_that_was_run_alone_is_known(worker, connect, send, services):
    stream = connect()
    request = services.idempotency
    send(added("a"), task_id="one")
    (message,) = worker.waiting(CHANGES_QUEUE)
    key = runs.forward_run.idempotency_key("one", message.payload[1])
    request.complete(key, 0)
    worker.run(CHANGES_QUEUE)
    assert not worker.waiting(stream.queue)
    assert services.counters.of(None).skipped == {Skip.REPEATED: 1}


def test_a_repeat_that_is_run_alone_of_a_message_of_a_run_is_known(worker, connect, send, services):
    stream = connect()
    send(added("a"), task_id="one")
    worker.run(CHANGES_QUEUE)
    # An ETA that has passed keeps it out of runs.
    send(added("a"), task_id="one", eta=None, countdown=-1)
    worker.run(CHANGES_QUEUE)
    assert len(worker.waiting(stream.queue)) == 1
    assert services.counters.of(None).skipped == {Skip.REPEATED: 1}


@pytest.mark.parametrize("slower", [(runs.RunTask, "_hand_over"), (ProducerTask, "forward")])
def test_a_message_that_is_run_alone_while_a_run_has_it_too_is_delivered_once(
    worker, connect, send, services, slower
):
    """Just before one of them hands over what it has made of the message, the other does."""
    stream = connect()
    # An ETA that has passed keeps it out of runs.
    in_run, alone = {"task_id": "one"}, {"task_id": "one", "countdown": -1}
    first, second = (in_run, alone) if slower[0] is runs.RunTask else (alone, in_run)
    hand_over = getattr(*slower)
    with pytest.MonkeyPatch.context() as patch:

        def hand_over_later(*args):
            patch.undo()
            send(added("a"), **second)
            for _ in ("in a run", "alone"):
                worker.run_one(CHANGES_QUEUE)
            return hand_over(*args)

        patch.setattr(*slower, hand_over_later)
        send(added("a"), **first)
        worker.run(CHANGES_QUEUE)
    assert [customers(call) for call in worker.calls(stream.queue)] == [["a"]]
    assert services.counters.of(stream).enqueued == 1
    assert services.counters.of(None).skipped == {Skip.REPEATED: 1}


@ON_REDIS
def test_a_message_that_is_gone_is_left_out_and_the_others_are_handed_over(
    worker, connect, send, monkeypatch
):
    """Between reading and handing over, another worker has requeued one of them."""
    stream = connect()
    send(added("a"), added("b"))
    read = Connected.read

    def read_and_lose(self, tags):
        found = read(self, tags)
        if len(tags) == 2:
            self.requeue(tags[:1])
        return found

    monkeypatch.setattr(Connected, "read", read_and_lose)
    worker.run_one(CHANGES_QUEUE)
    assert [customers(call) for call in worker.calls(stream.queue)] == [["b"]]
    worker.run(CHANGES_QUEUE)
    assert [customers(call) for call in worker.calls(stream.queue)] == [["b"], ["a"]]


def test_the_content_of_a_run_is_bounded_although_its_messages_are_compressed(worker, connect, monkeypatch):
    stream = connect()
    share = RUN_CONTENT_BYTES // 20
    for number in range(30):
        worker.send(FORWARD, {"changes": [added(f"{number}" * (share // len(str(number))))]})
    worker.run_one(CHANGES_QUEUE)
    delivered = sum(len(lines(call)) for call in worker.calls(stream.queue))
    assert 15 <= delivered < 20
    assert len(worker.waiting(CHANGES_QUEUE)) == 30 - delivered
    worker.run(CHANGES_QUEUE)
    assert sum(len(lines(call)) for call in worker.calls(stream.queue)) == 30


def test_the_records_of_a_run_are_bounded_however_many_streams_they_are_for(
    worker, connect, send, monkeypatch
):
    monkeypatch.setattr(runs, "RUN_RECORDS", 10)
    streams = [connect(name=f"stream-{number}") for number in range(3)]
    send(*(added(f"user-{number}") for number in range(5)))
    worker.run(CHANGES_QUEUE)
    expected = [["user-0", "user-1", "user-2"], ["user-3", "user-4"]]
    for stream in streams:
        assert [customers(call) for call in worker.calls(stream.queue)] == expected


def test_a_message_that_makes_more_records_than_a_run_may_is_a_run_of_its_own(worker, connect, monkeypatch):
    monkeypatch.setattr(runs, "RUN_RECORDS", 1)
    stream = connect()
    for name in "ab":
        worker.send(FORWARD, {"changes": [added(f"{name}-{number}") for number in range(3)]})
    worker.run(CHANGES_QUEUE)
    assert [len(customers(call)) for call in worker.calls(stream.queue)] == [3, 3]


def test_a_run_whose_process_was_lost_is_run_message_by_message(worker, connect, send, services):
    stream = connect()
    send(added("a"), added("b"))
    worker.die_over_one(CHANGES_QUEUE)
    assert worker.run(CHANGES_QUEUE) == 2
    assert [customers(call) for call in worker.calls(stream.queue)] == [["a"], ["b"]]


def test_a_run_that_fails_is_run_message_by_message(worker, connect, send, services, monkeypatch):
    stream = connect()
    send(added("a"), added("b"))
    monkeypatch.setattr(runs, "fan_out", None)
    worker.run_one(CHANGES_QUEUE)
    assert worker.run(CHANGES_QUEUE) == 2
    assert [customers(call) for call in worker.calls(stream.queue)] == [["a"], ["b"]]
    assert not services.dead_letters.all()


@ON_REDIS
def test_a_stream_whose_queue_somebody_has_overwritten_has_no_batch_of_another_repeated(
    worker, connect, send, redis_broker
):
    healthy, overwritten = connect(1, "healthy"), connect(2, "overwritten")
    send(added("a", 1), added("b", 2), added("c", 1))
    redis_broker.set(overwritten.queue, "somebody's")
    worker.run_one(CHANGES_QUEUE)
    assert not worker.waiting(healthy.queue)
    for _ in ("a", "b", "b again"):
        worker.run_one(CHANGES_QUEUE)
    redis_broker.delete(overwritten.queue)
    worker.run(CHANGES_QUEUE)
    assert [customers(call) for call in worker.calls(healthy.queue)] == [["a"], ["c"]]
    assert [customers(call) for call in worker.calls(overwritten.queue)] == [["b"]]


def lose_connection(*_):
    raise ConnectionError


@ON_REDIS
def test_a_run_that_could_not_be_counted_is_counted_later_and_once(
    worker, send, services, clock, redis_broker
):
    send(added("a"), added("b"))
    with pytest.MonkeyPatch.context() as without_state:
        without_state.setattr(services.run_recorder, "record", lose_connection)
        worker.run(CHANGES_QUEUE)
    assert redis_broker.hlen(UNCOUNTED) == 1

    with worker.app.reservations.open() as connected:
        record_late(connected, services.run_recorder, services.clock(), set())
        assert redis_broker.hlen(UNCOUNTED) == 1, "its process may still be about to count it"
        clock.advance(LATE_AFTER_SECONDS + 1)
        (entry,) = redis_broker.hgetall(UNCOUNTED).items()
        for _ in range(2):
            # As if the broker could not be reached to forget it once it is counted.
            redis_broker.hset(UNCOUNTED, *entry)
            record_late(connected, services.run_recorder, services.clock(), set())
    assert services.counters.of(None).skipped == {Skip.NO_CONNECTION: 2}
    assert redis_broker.hlen(UNCOUNTED) == 0


@ON_REDIS
@pytest.mark.parametrize("corrupt", ["secretive", "{}", "[]", '{"at": 0, "enqueued": 7}'])
def test_a_corrupt_count_is_left_alone_and_logged_once(worker, services, redis_broker, corrupt, caplog):
    redis_broker.hset(UNCOUNTED, b"run-\xff", corrupt)
    known = set()
    with worker.app.reservations.open() as connected:
        for _ in range(2):
            record_late(connected, services.run_recorder, services.clock(), known)
    assert redis_broker.hlen(UNCOUNTED) == 1
    assert len(caplog.records) == 1


@pytest.fixture
def two_servers(app, services, secret_key, monkeypatch):
    """The state remembers which messages it has counted."""
    urls = {"CELERY_BROKER_URL": "redis://a", "AUDIENCE_REDIS_URL": "redis://b"}
    settings = read_settings({"AUDIENCE_SECRET_KEY": secret_key, **urls})
    apart = Services(services.redis, settings, services.clock, services.monotonic, services.sleep)
    monkeypatch.setitem(app.__dict__, "services", apart)
    return apart


@ON_REDIS
def test_messages_that_the_broker_has_again_after_a_failover_are_counted_once(
    two_servers, worker, connect, send, redis_broker
):
    stream = connect()
    send(added("a"), added("b"))
    before = redis_broker.lrange(CHANGES_QUEUE, 0, -1)
    worker.run(CHANGES_QUEUE)
    # The replica that is promoted has the messages, and neither the batch nor that they were completed.
    redis_broker.delete(stream.queue, *redis_broker.keys(f"{COMPLETED}:*"))
    redis_broker.rpush(CHANGES_QUEUE, *before)
    send(added("c"))
    worker.run(CHANGES_QUEUE)
    assert [customers(call) for call in worker.calls(stream.queue)] == [["a", "b", "c"]]
    assert two_servers.counters.of(stream).enqueued == 3
    assert two_servers.counters.of(None).skipped == {}


@ON_REDIS
def test_a_call_of_a_run_by_somebody_else_ends_nothing(worker, connect, send, redis_broker):
    connect()
    worker.send(FORWARD_RUN, {}, args=[["any", "run-other"]])
    assert worker.run(CHANGES_QUEUE) == 2
    assert len(worker.waiting(CHANGES_QUEUE)) == redis_broker.hlen("unacked") == 0


@pytest.mark.parametrize("kwargs", [{}, {"tags": "secretive"}, {"other": 7}])
def test_a_malformed_call_of_a_run_becomes_a_dead_letter(worker, services, kwargs):
    worker.send(FORWARD_RUN, kwargs)
    worker.run(CHANGES_QUEUE)
    assert len(services.dead_letters.all()) == 1


@pytest.fixture
def large_batch(worker, stream, send):
    """A batch of the stream, in a message of which the main process does not see the body."""
    random = Random(1)
    send(*(added(f"{number}-{random.randbytes(300).hex()}") for number in range(10)))
    worker.run(CHANGES_QUEUE)
    return stream


@ON_REDIS
def test_a_batch_is_read_from_the_broker_and_delivered(worker, large_batch, firehose, services, redis_broker):
    worker.run(large_batch.queue)
    assert len(firehose.accepted("travel")) == 10
    assert services.counters.of(large_batch).delivered == 10
    assert redis_broker.hlen("unacked") == 0


@ON_REDIS
def test_a_retry_of_a_batch_that_was_read_from_the_broker_has_its_records_and_their_cost(
    worker, large_batch, firehose
):
    firehose.faults.append(refuse_once(b'"3-'))
    worker.run_one(large_batch.queue)
    (retry,) = worker.waiting(large_batch.queue)
    _, kwargs, _ = retry.payload
    assert len(kwargs["records"]) == 1
    assert (retry.headers[RECORDS_HEADER], retry.headers[BYTES_HEADER]) == (1, len(kwargs["records"][0]))
    worker.run(large_batch.queue)
    assert len(firehose.accepted("travel")) == 10


@ON_REDIS
def test_a_batch_that_was_requeued_before_its_process_read_it_is_left_alone(
    worker, large_batch, firehose, monkeypatch
):
    monkeypatch.setattr(base, "read_body", lambda *_: None)
    worker.run(large_batch.queue)
    assert not firehose.calls


@ON_REDIS
def test_a_poison_batch_that_was_left_in_the_broker_becomes_a_dead_letter(worker, large_batch, services):
    for _ in range(MAX_LOST_PROCESSES + 1):
        worker.die_over_one(large_batch.queue)
    (letter,) = services.dead_letters.all()
    assert letter.records == 10
    assert not worker.waiting(large_batch.queue)


def test_a_run_whose_state_is_missing_is_requeued_as_a_run(worker, connect, send):
    """It waits for another worker; nothing is wrong with its messages."""
    connect()
    send(added("a", 2), added("b", 2))
    with pytest.MonkeyPatch.context() as without_state:
        without_state.setattr(worker.app.installation, "latest_of", lambda _: None)
        worker.run_one(CHANGES_QUEUE)
    assert len(worker.waiting(CHANGES_QUEUE)) == 2
    assert worker.run(CHANGES_QUEUE) == 1


@ON_REDIS
def test_a_repeat_is_counted_where_the_state_remembers_what_is_counted(
    two_servers, worker, connect, send, caplog
):
    stream = connect()
    for _ in range(2):
        send(added("a"), task_id="one")
        worker.run(CHANGES_QUEUE)
    assert [customers(call) for call in worker.calls(stream.queue)] == [["a"]]
    assert two_servers.counters.of(None).skipped == {Skip.REPEATED: 1}
    assert "run again" not in caplog.text


@pytest.mark.parametrize("task", [FORWARD, FORWARD_MPARTICLE])
def test_a_call_that_names_a_body_which_is_not_its_own_becomes_a_dead_letter(worker, connect, services, task):
    connect()
    worker.send(task, {BODY_TAG: "any"})
    worker.run(CHANGES_QUEUE)
    assert len(services.dead_letters.all()) == 1


@ON_REDIS
def test_a_change_without_a_timestamp_is_not_of_the_future_after_the_clock_of_redis_was_ahead(
    worker, connect, send, redis_broker, services
):
    stream = connect()
    redis_broker.set(LAST_SEQUENCE_NUMBER, 4 * 10**15)
    timeless = added("a")
    del timeless["timestamp"]
    send(timeless)
    worker.run(CHANGES_QUEUE)
    (call,) = worker.calls(stream.queue)
    record = json.loads(lines(call)[0])
    assert int(record["MembershipChangedTimestamp"]) < 4 * 10**9


@ON_REDIS
def test_a_poison_batch_that_is_not_reserved_any_more_becomes_no_dead_letter(
    worker, large_batch, services, monkeypatch
):
    """It was requeued, and its records are another reservation's."""
    with monkeypatch.context() as gone:
        gone.setattr(request, "read_body", lambda *_: None)
        gone.setattr(request, "MAX_LOST_PROCESSES", 0)
        worker.die_over_one(large_batch.queue)
    assert not services.dead_letters.all()
    assert len(worker.waiting(large_batch.queue)) == 1


def test_messages_that_expand_beyond_a_runs_limit_leave_its_room_to_the_others(worker, connect):
    stream = connect()
    for number in range(30):
        worker.send(FORWARD, {"changes": [added("x" * RUN_MESSAGE_BYTES)]})
        worker.send(FORWARD, {"changes": [added(f"{number}")]})
    worker.run_one(CHANGES_QUEUE)
    assert sum(len(lines(call)) for call in worker.calls(stream.queue)) == 30
    assert len(worker.waiting(CHANGES_QUEUE)) == 30


@ON_REDIS
def test_a_message_that_was_run_alone_is_run_again_where_the_broker_has_lost_what_was_made_of_it(
    two_servers, worker, connect, send, monkeypatch
):
    stream, redis = connect(), worker.app.connection_for_read().default_channel.client
    send(added("a"))
    before = redis.lrange(CHANGES_QUEUE, 0, -1)
    worker.die_over_one(CHANGES_QUEUE)
    monkeypatch.setitem(
        worker.app.__dict__, "handovers", Handovers(worker.app, keep_seconds=60, are_needed=True)
    )
    worker.run(CHANGES_QUEUE)
    # The replica that is promoted has the message as it was first, and nothing that came of it.
    redis.delete(stream.queue, *redis.keys("audience.handed-over*"))
    redis.rpush(CHANGES_QUEUE, *before)
    worker.run(CHANGES_QUEUE)
    assert [customers(call) for call in worker.calls(stream.queue)] == [["a"]]
    assert two_servers.counters.of(stream).enqueued == 1


@contextmanager
def without_rabbitmq():
    """RabbitMQ takes nothing that is published."""

    def lose(*_):
        raise OperationalError

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Publisher, "publish", lose)
        yield


@ON_RABBITMQ
def test_what_was_handed_over_and_not_published_is_published_once_when_its_messages_come_back(
    worker, connect, send, services, redis
):
    stream = connect()
    send(added("a"), added("b"))
    with without_rabbitmq():
        worker.run_one(CHANGES_QUEUE)
    assert redis.hlen(OUTBOX) == 1
    assert not worker.waiting(stream.queue)
    send(added("c"))
    worker.run(CHANGES_QUEUE)
    assert [customers(call) for call in worker.calls(stream.queue)] == [["a", "b"], ["c"]]
    assert services.counters.of(stream).enqueued == 3
    assert not redis.exists(OUTBOX, PENDING)


@ON_RABBITMQ
def test_what_a_run_made_is_published_although_its_messages_are_gone(worker, connect, send, services, redis):
    stream = connect()
    send(added("a"), added("b"))
    with without_rabbitmq():
        worker.run_one(CHANGES_QUEUE)
    assert len(worker.waiting(CHANGES_QUEUE)) == 2
    worker.delete(CHANGES_QUEUE)
    consumer = SimpleNamespace(app=worker.app, task_consumer=SimpleNamespace(left_out=()))
    unfinished = UnfinishedRuns(consumer)
    unfinished.check(consumer)
    assert redis.hlen(OUTBOX) == 1, "its process may still be about to publish it"
    with without_rabbitmq():
        unfinished.check(consumer)
    assert redis.hlen(OUTBOX) == 1
    unfinished.check(consumer)
    assert [customers(call) for call in worker.calls(stream.queue)] == [["a", "b"]]
    assert services.counters.of(stream).enqueued == 2
    assert not redis.exists(OUTBOX, PENDING)


@ON_RABBITMQ
def test_what_was_published_and_not_counted_is_published_again_under_the_same_id_and_counted_once(
    worker, connect, send, services, redis
):
    stream = connect()
    send(added("a"), added("b"))
    with pytest.MonkeyPatch.context() as without_state:
        without_state.setattr(services.run_recorder, "record", lose_connection)
        worker.run_one(CHANGES_QUEUE)
    worker.run(CHANGES_QUEUE)
    first, again = worker.waiting(stream.queue)
    assert first.headers["id"] == again.headers["id"]
    assert first.body == again.body
    assert services.counters.of(stream).enqueued == 2
    assert not redis.exists(OUTBOX, PENDING)


@ON_RABBITMQ
def test_messages_whose_run_was_lost_after_its_hand_over_finish_it_though_each_is_run_alone(
    worker, connect, send, services, redis
):
    stream = connect()
    send(added("a"), added("b"))
    with without_rabbitmq():
        worker.run_one(CHANGES_QUEUE)
    worker.die_over_one(CHANGES_QUEUE)
    assert worker.run(CHANGES_QUEUE) == 2
    assert [customers(call) for call in worker.calls(stream.queue)] == [["a", "b"]]
    assert services.counters.of(stream).enqueued == 2
    assert not redis.exists(OUTBOX, PENDING)


@ON_RABBITMQ
def test_what_is_finished_late_is_remembered_from_then_on(worker, connect, send, services, redis):
    """Of a run, RabbitMQ took nothing for longer than completed messages are remembered."""
    stream = connect()
    send(added("a"), added("b"), added("c"))
    with without_rabbitmq():
        worker.run_one(CHANGES_QUEUE)
    redis.delete(*redis.keys(f"{outbox.COMPLETED_IN_STATE}:*"))
    # RabbitMQ has back what the run returned, or the next run is of fewer.
    assert len(worker.waiting(CHANGES_QUEUE)) == 3
    worker.die_over_one(CHANGES_QUEUE)
    assert worker.run(CHANGES_QUEUE) == 3
    assert [customers(call) for call in worker.calls(stream.queue)] == [["a", "b", "c"]]
    assert services.counters.of(stream).enqueued == 3


@ON_RABBITMQ
def test_a_message_that_is_being_run_alone_is_in_no_run(worker, connect, send, services):
    """Its worker has lost its connection to RabbitMQ, which has delivered the message again."""
    stream = connect()
    send(added("a"), task_id="one")
    (message,) = worker.waiting(CHANGES_QUEUE)
    attempt = runs.forward_run.idempotency_key("one", message.payload[1])
    services.idempotency.acquire(attempt, 0, "another worker")
    send(added("b"))
    worker.run_one(CHANGES_QUEUE)
    assert [customers(call) for call in worker.calls(stream.queue)] == [["b"]]
    assert len(worker.waiting(CHANGES_QUEUE)) == 1
    services.idempotency.release(attempt, 0, "another worker")
    worker.run(CHANGES_QUEUE)
    assert [customers(call) for call in worker.calls(stream.queue)] == [["b"], ["a"]]


@ON_RABBITMQ
def test_a_message_that_came_back_often_is_run_alone_where_it_is_replaced(worker, connect, send):
    stream = connect()
    send(added("a"))
    send(added("b"), headers={"x-delivery-count": RENEWED_AFTER_DELIVERIES})
    worker.run_one(CHANGES_QUEUE)
    assert [customers(call) for call in worker.calls(stream.queue)] == [["a"]]
    assert len(worker.waiting(CHANGES_QUEUE)) == 1


@ON_RABBITMQ
def test_the_queue_of_a_batch_that_somebody_has_deleted_is_declared_again(worker, connect, send):
    stream = connect()
    for customer in ("a", "b"):
        send(added(customer))
        worker.run(CHANGES_QUEUE)
        assert [customers(call) for call in worker.calls(stream.queue)] == [[customer]]
        worker.delete(stream.queue)


@ON_RABBITMQ
def test_a_run_whose_queue_refuses_a_batch_is_returned(worker, connect, send, redis):
    stream = connect()
    full = {"x-max-length": 0, "x-overflow": "reject-publish"}
    worker.declare(stream.queue, full)
    send(added("a"))
    worker.run_one(CHANGES_QUEUE)
    assert len(worker.waiting(CHANGES_QUEUE)) == 1
    worker.delete(stream.queue)
    worker.run(CHANGES_QUEUE)
    assert [customers(call) for call in worker.calls(stream.queue)] == [["a"]]


@ON_RABBITMQ
def test_a_queue_that_refuses_a_batch_holds_up_no_message_of_another_stream(worker, connect, send):
    full, other = connect(1, name="full"), connect(2, name="other")
    worker.declare(full.queue, {"x-max-length": 0, "x-overflow": "reject-publish"})
    send(added("a", 1))
    worker.run_one(CHANGES_QUEUE)
    send(added("b", 2))
    worker.run_one(CHANGES_QUEUE)
    assert [customers(call) for call in worker.calls(other.queue)] == [["b"]]
    worker.delete(full.queue)
    worker.run(CHANGES_QUEUE)
    assert [customers(call) for call in worker.calls(full.queue)] == [["a"]]


@ON_RABBITMQ
def test_what_rabbitmq_has_taken_of_a_run_is_not_published_again_while_it_refuses_the_rest(
    worker, connect, send, services, redis
):
    full, other = connect(1, name="full"), connect(2, name="other")
    worker.declare(full.queue, {"x-max-length": 0, "x-overflow": "reject-publish"})
    send(added("a", 1), added("b", 2))
    for _ in range(3):
        worker.run_one(CHANGES_QUEUE)
    assert [customers(call) for call in worker.calls(other.queue)] == [["b"]]
    worker.delete(full.queue)
    worker.run(CHANGES_QUEUE)
    assert [customers(call) for call in worker.calls(full.queue)] == [["a"]]
    assert [customers(call) for call in worker.calls(other.queue)] == [["b"]]
    assert (services.counters.of(full).enqueued, services.counters.of(other).enqueued) == (1, 1)
    assert not redis.exists(OUTBOX, PENDING)


@ON_RABBITMQ
def test_a_call_of_a_run_by_somebody_else_has_no_messages(worker, connect, send, services):
    stream = connect()
    worker.send(FORWARD_RUN, {}, args=[["1", "2"]])
    send(added("a"))
    worker.run(CHANGES_QUEUE)
    assert [customers(call) for call in worker.calls(stream.queue)] == [["a"]]
    assert not services.dead_letters.all()
