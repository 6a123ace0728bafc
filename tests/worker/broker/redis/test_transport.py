"""At each moment a message is in its queue or recorded as unacknowledged."""

import json
import time
from random import randbytes

import pytest
from kombu import Connection, Exchange, Queue
from redis import Redis
from redis.exceptions import ConnectionError, OutOfMemoryError, ResponseError

from worker.broker.redis import channel
from worker.broker.redis.message import parse
from worker.broker.redis.poll import LAST_SEQUENCE_NUMBER
from worker.broker.redis.set_aside import SET_ASIDE, forget, is_set_aside, parts_of
from worker.broker.redis.transport import Transport
from worker.queues import CHANGES_QUEUE, SEQUENCE_HEADER

QUEUE = "queue"
STREAM_QUEUE = "firehose.main.us-east-1.stream"
FAR_FUTURE = 2**40
CONSUMED = Queue(QUEUE, routing_key=QUEUE)


def consume(connection, no_ack=False):
    """The next message."""
    got = []
    with connection.Consumer(CONSUMED, callbacks=[lambda _, message: got.append(message)], no_ack=no_ack):
        connection.drain_events(timeout=5)
    (message,) = got
    return message


def send(connection, text, **options):
    connection.Producer().publish(text, routing_key=QUEUE, declare=[CONSUMED], **options)


def test_one_script_reserves_a_message(connection, server):
    send(connection, "hello")
    before = server.info("commandstats")
    message = consume(connection)
    after = server.info("commandstats")
    assert message.payload == "hello"
    assert (server.llen(QUEUE), server.hlen("unacked"), server.zcard("unacked_index")) == (0, 1, 1)
    # kombu's own record would be a `hset`.
    assert after["cmdstat_hsetnx"]["calls"] - before.get("cmdstat_hsetnx", {"calls": 0})["calls"] == 1
    assert after.get("cmdstat_hset") == before.get("cmdstat_hset")


def test_an_acknowledged_message_is_in_no_key_of_the_broker(connection, server):
    send(connection, "hello")
    consume(connection).ack()
    assert (server.llen(QUEUE), server.hlen("unacked"), server.zcard("unacked_index")) == (0, 0, 0)


@pytest.mark.parametrize("denied", ["hsetnx", "zadd"])
@pytest.mark.parametrize("queue", [QUEUE, CHANGES_QUEUE, STREAM_QUEUE])
def test_a_message_that_may_not_be_recorded_stays_in_its_queue(server, real_redis_url, denied, queue):
    server.execute_command("ACL", "SETUSER", "limited", "on", "nopass", "~*", "&*", "+@all", f"-{denied}")
    url = real_redis_url.replace("redis://", "redis://limited:any@")
    texts = ["first", "second"]
    try:
        with Connection(real_redis_url, transport=Transport) as sender:
            for text in texts:
                sender.Producer().publish(text, routing_key=queue, declare=[Queue(queue, routing_key=queue)])
        waiting = server.lrange(queue, 0, -1)

        with (
            Connection(url, transport=Transport) as connection,
            connection.Consumer(Queue(queue, routing_key=queue), callbacks=[lambda *_: None]),
            pytest.raises(ResponseError),
        ):
            connection.drain_events(timeout=5)

        assert server.lrange(queue, 0, -1) == waiting
        assert (server.hlen("unacked"), server.zcard("unacked_index")) == (0, 0)
    finally:
        server.acl_deluser("limited")


def test_a_message_that_its_list_refuses_stays_reserved_and_others_are_requeued(connection, server, caplog):
    send(connection, "first")
    message = consume(connection)
    send_changes(connection, "second")
    (other,) = consume_changes(connection)
    server.set(QUEUE, "somebody's")

    message.channel.qos.requeue([message.delivery_tag, other.delivery_tag])

    assert server.hkeys("unacked") == server.zrange("unacked_index", 0, -1) == [message.delivery_tag]
    assert server.llen(CHANGES_QUEUE) == 1
    assert f"stays reserved: {QUEUE} refuses it" in caplog.text


CHANGES = Queue(CHANGES_QUEUE, routing_key=CHANGES_QUEUE)


def tags_of(run):
    [tags], *_ = run.payload
    return tags


def consume_changes(connection, count=1):
    """The next messages of changes, which are reserved in runs."""
    runs = []
    with connection.Consumer(CHANGES, callbacks=[lambda _, run: runs.append(run)]):
        while sum(len(tags_of(run)) for run in runs) < count:
            connection.drain_events(timeout=5)
    return [reserved(run.channel, tag) for run in runs for tag in tags_of(run)]


def reserved(channel, tag):
    """A reserved message of a run."""
    text, *_ = json.loads(channel.client.hget("unacked", tag))
    return channel.Message(parse(json.dumps(text), tag, CHANGES_QUEUE), channel)


def send_changes(connection, text="hello", **options):
    connection.Producer().publish(text, routing_key=CHANGES_QUEUE, declare=[CHANGES], **options)


def test_a_message_of_changes_is_stamped_with_a_growing_number_when_it_is_first_reserved(connection):
    for text in ("first", "second", "third"):
        send_changes(connection, text)
    messages = consume_changes(connection, 3)
    numbers = [int(message.headers[SEQUENCE_HEADER]) for message in messages]
    assert [message.payload for message in messages] == ["first", "second", "third"]
    assert numbers == sorted(set(numbers))
    assert abs(numbers[0] / 1e6 - time.time()) < 600


def test_a_message_that_comes_back_keeps_its_number(connection):
    send_changes(connection)
    (message,) = consume_changes(connection)
    for _ in range(2):
        message.requeue()
        (again,) = consume_changes(connection)
        assert again.headers[SEQUENCE_HEADER] == message.headers[SEQUENCE_HEADER]
        message = again


def test_a_replayed_message_keeps_the_number_that_it_brings(connection):
    send_changes(connection, headers={SEQUENCE_HEADER: "7"})
    (message,) = consume_changes(connection)
    assert message.headers[SEQUENCE_HEADER] == "7"


def test_numbers_grow_when_the_clock_of_redis_was_ahead(connection, server):
    server.set(LAST_SEQUENCE_NUMBER, FAR_FUTURE * 2**11)
    send_changes(connection)
    (message,) = consume_changes(connection)
    assert int(message.headers[SEQUENCE_HEADER]) == FAR_FUTURE * 2**11 + 1


@pytest.mark.parametrize("corrupt", ["set", "hset"])
def test_a_corrupt_last_number_loses_no_message(connection, server, corrupt):
    getattr(server, corrupt)(LAST_SEQUENCE_NUMBER, *["x"] * (1 if corrupt == "set" else 2))
    send_changes(connection)
    (message,) = consume_changes(connection)
    assert int(message.headers[SEQUENCE_HEADER]) > 0


def test_messages_of_other_queues_are_not_stamped(connection):
    send(connection, "hello")
    assert SEQUENCE_HEADER not in consume(connection).headers


def test_a_message_that_is_requeued_twice_is_in_its_queue_once(connection, server):
    send(connection, "hello")
    message = consume(connection)
    message.requeue()
    message.channel.qos.restore_by_tag(message.delivery_tag)
    assert (server.llen(QUEUE), server.hlen("unacked")) == (1, 0)
    assert consume(connection).headers["redelivered"]


def test_a_message_consumed_without_acknowledgement_is_not_recorded(connection, server):
    send(connection, "hello")
    assert consume(connection, no_ack=True).payload == "hello"
    assert server.hlen("unacked") == 0


def test_in_a_full_redis_messages_are_reserved_requeued_and_acknowledged(connection, server):
    send(connection, "hello")
    server.config_set("maxmemory", 1)
    message = consume(connection)
    assert server.hlen("unacked") == 1
    message.requeue()
    assert (server.llen(QUEUE), server.hlen("unacked")) == (1, 0)
    consume(connection).ack()
    assert server.hlen("unacked") == 0


@pytest.mark.parametrize(("until", "in_queue"), [(FAR_FUTURE, 0), (time.time(), 1)], ids=["delayed", "due"])
def test_in_a_full_redis_a_message_is_delayed_and_requeued_when_due(connection, server, until, in_queue):
    send(connection, "hello")
    server.config_set("maxmemory", 1)
    message = consume(connection)
    assert message.channel.delay(message, until)
    message.channel.qos.restore_visible(interval=1)
    assert (server.llen(QUEUE), server.hlen("unacked")) == (in_queue, 1 - in_queue)


@pytest.mark.parametrize("name", [QUEUE, "firehose.main.us-east-1.travel"])
def test_a_full_redis_accepts_retries_and_no_new_message(connection, server, name):
    queue = Queue(name, routing_key=name)
    server.config_set("maxmemory", 1)
    with pytest.raises(OutOfMemoryError):
        connection.Producer().publish("new", routing_key=name, declare=[queue])
    connection.Producer().publish("rest", routing_key=name, headers={"retries": 1})
    got = []
    with connection.Consumer(queue, callbacks=[lambda body, _: got.append(body)]):
        connection.drain_events(timeout=5)
    assert got == ["rest"]


def test_queues_of_a_full_redis_can_be_declared_purged_and_deleted(connection, server):
    send(connection, "hello")
    server.config_set("maxmemory", 1)
    channel = connection.channel()
    assert channel.queue_declare(QUEUE, passive=True).message_count == 1
    assert channel.queue_purge(QUEUE) == 1
    channel.queue_delete(QUEUE)
    assert not server.exists(QUEUE)


def test_a_message_that_was_reserved_again_is_not_requeued(connection, server):
    send(connection, "hello")
    message = consume(connection)
    message.channel.qos.restore_by_tag(message.delivery_tag, reserved_by=time.time() - 60)
    assert (server.llen(QUEUE), server.hlen("unacked")) == (0, 1)
    message.channel.qos.restore_by_tag(message.delivery_tag, reserved_by=time.time() + 60)
    assert (server.llen(QUEUE), server.hlen("unacked")) == (1, 0)


def test_a_late_requeue_leaves_the_record_of_the_next_reservation_alone(connection, server):
    send(connection, "hello")
    message = consume(connection)

    class Late(Redis):
        def hmget(self, *args):
            """As before the message was reserved again."""
            return [None]

    with Late(connection_pool=server.connection_pool) as late:
        message.channel.qos.restore_by_tag(message.delivery_tag, late)
    assert (server.llen(QUEUE), server.hlen("unacked"), server.zcard("unacked_index")) == (0, 1, 1)


def test_a_malformed_message_becomes_the_body_of_a_message(connection, server):
    server.lpush(QUEUE, b"\xff{secretive")
    message = consume(connection)
    assert message.body == "\xff{secretive".encode()
    assert message.delivery_info["routing_key"] == QUEUE
    message.ack()
    assert server.hlen("unacked") == 0


LARGE, VERY_LARGE = 5 * 2**20, 50 * 2**20
LARGE_AND_MALFORMED = {
    "random bytes": lambda: randbytes(VERY_LARGE),
    "JSON that is no message": lambda: b"[" + b"0," * (LARGE // 2) + b"0]",
    "an object that is no message": lambda: b'{"body": "' + b"x" * LARGE + b'"}',
    "properties without an end": lambda: b'"properties":{' * (LARGE // 14),
    "properties that are none": lambda: b"x" * LARGE + b'"properties": {"delivery_tag": 7}}',
}


@pytest.mark.parametrize("make", LARGE_AND_MALFORMED.values(), ids=LARGE_AND_MALFORMED)
def test_a_large_malformed_message_is_set_aside_as_it_is(connection, server, real_redis_url, make):
    content = make()
    server.lpush(QUEUE, content)
    message = consume(connection)
    assert is_set_aside(message)
    assert server.hstrlen("unacked", message.delivery_tag) < 1000
    assert b"".join(parts_of(message)) == content
    # It can go back like any message, and is found again.
    message.requeue()
    assert server.llen(QUEUE) == 1
    message = consume(connection)
    assert sum(map(len, parts_of(message))) == len(content)
    forget(message)
    message.ack()
    assert (list(parts_of(message)), server.hlen("unacked"), server.exists(SET_ASIDE)) == ([], 0, 0)


def test_a_large_message_is_set_aside_in_a_full_redis(connection, server):
    server.lpush(QUEUE, bytes(2**20))
    server.config_set("maxmemory", 1)
    assert b"".join(parts_of(consume(connection))) == bytes(2**20)


def test_two_equal_large_messages_are_set_aside_each(connection, server):
    server.lpush(QUEUE, bytes(2**20), bytes(2**20))
    tags = {consume(connection).delivery_tag for _ in range(2)}
    assert len(tags) == server.hlen(SET_ASIDE) == 2


def test_a_large_message_that_cannot_be_set_aside_is_quoted(connection, server):
    server.set(SET_ASIDE, "corrupt")
    server.lpush(QUEUE, bytes(2**15))
    message = consume(connection)
    assert (message.body, is_set_aside(message)) == (bytes(2**15), False)


@pytest.mark.parametrize("order", [sorted, lambda keys: sorted(keys, reverse=True)], ids=["last", "first"])
def test_a_large_message_is_a_message_wherever_its_properties_are(connection, server, order):
    send(connection, "x" * 2 * 2**20)
    envelope = json.loads(server.rpop(QUEUE))
    server.lpush(QUEUE, json.dumps({key: envelope[key] for key in order(envelope)}))
    message = consume(connection)
    assert len(message.payload) == 2 * 2**20
    assert not server.exists(SET_ASIDE)
    message.ack()
    assert server.hlen("unacked") == 0


PROPERTIES = b'"properties": {"delivery_tag": "t", "delivery_info": {"exchange": "", "routing_key": "queue"}}'
MALFORMED = {
    "a line break in a text, which Lua reads": b'{"body": "a\nb", "headers": {}, ' + PROPERTIES + b"}",
    "a number as Lua reads it": b'{"body": 0x10, "headers": {}, ' + PROPERTIES + b"}",
    "no UTF-8": b'{"body": "\xff", "headers": {}, ' + PROPERTIES + b"}",
    "headers that are none": b'{"body": "", "headers": [1], ' + PROPERTIES + b"}",
    "no headers": b'{"body": "", "headers": null, ' + PROPERTIES + b"}",
    "an unknown encoding": b'{"body": "x", "headers": {}, ' + PROPERTIES[:-1] + b', "body_encoding": "x"}}',
}


@pytest.mark.parametrize("text", MALFORMED.values(), ids=MALFORMED)
def test_a_malformed_message_can_be_reserved_requeued_and_acknowledged(connection, server, text):
    server.lpush(QUEUE, text)
    consume(connection).requeue()
    assert (server.llen(QUEUE), server.hlen("unacked")) == (1, 0)
    message = consume(connection)
    server.zadd("unacked_index", {message.delivery_tag: 1})
    message.channel.qos.restore_visible(interval=1)
    assert (server.llen(QUEUE), server.hlen("unacked")) == (1, 0)
    consume(connection).ack()
    assert (server.llen(QUEUE), server.hlen("unacked")) == (0, 0)


def test_a_message_is_requeued_to_the_queue_it_came_from_whatever_exchange_it_was_sent_to(
    connection, server, real_redis_url
):
    events = Exchange("events", type="topic")
    bound = Queue(QUEUE, events, routing_key="audience.#")
    with Connection(real_redis_url, transport=Transport) as caller:
        caller.Producer().publish("hello", exchange=events, routing_key="audience.member", declare=[bound])
    server.delete("_kombu.binding.events")
    consume(connection).requeue()
    assert (server.llen(QUEUE), server.hlen("unacked")) == (1, 0)


def test_acknowledging_over_a_closed_connection_raises_a_connection_error(connection, server):
    send(connection, "hello")
    message = consume(connection)
    connection.collect()
    # Where Redis is away meanwhile, this is what is left of the channel.
    message.channel._disconnect_pools()
    with pytest.raises(ConnectionError):
        message.ack()


def test_a_delayed_message_takes_no_prefetch_and_is_requeued_at_its_time(connection, server):
    send(connection, "hello")
    message = consume(connection)
    qos, tag = message.channel.qos, message.delivery_tag
    qos.prefetch_count = 1
    assert not qos.can_consume()
    assert message.channel.delay(message, until=FAR_FUTURE)
    assert qos.can_consume()
    qos.restore_visible(interval=1)
    assert (server.llen(QUEUE), server.hlen("unacked")) == (0, 1)
    server.zadd("unacked_index", {tag: 1})
    qos.restore_visible(interval=1)
    assert (server.llen(QUEUE), server.hlen("unacked")) == (1, 0)
    assert consume(connection).payload == "hello"


def test_queues_are_served_in_turn(connection):
    queues = [Queue(name, routing_key=name) for name in ("a", "b", "c")]
    producer = connection.Producer()
    for queue in queues:
        for _ in range(2):
            producer.publish(queue.name, routing_key=queue.name, declare=[queue])
    got = []
    with connection.Consumer(queues, callbacks=[lambda body, message: (got.append(body), message.ack())]):
        while len(got) < 6:
            connection.drain_events(timeout=5)
    assert got == ["a", "b", "c"] * 2


def test_a_loop_that_was_closed_with_the_broker_runs_the_poll_timer_again(connection, loop):
    loop.reset()
    with connection.Consumer(CONSUMED) as consumer:
        connection.register_with_event_loop(loop)
        consumer.channel._await_poll_interval()
        assert consumer.channel._poll_timer in [scheduled.entry for scheduled in loop.timer.queue]


def test_a_queue_that_is_added_is_polled_at_once(connection, loop, monkeypatch):
    monkeypatch.setattr(channel, "POLL_INTERVAL_SECONDS", FAR_FUTURE)
    send(connection, "hello")
    got = []
    with connection.Consumer(Queue("empty"), callbacks=[lambda body, _: got.append(body)]) as consumer:
        connection.register_with_event_loop(loop)
        while consumer.channel._poll_timer is None:
            loop.run_once()
        consumer.add_queue(CONSUMED)
        consumer.consume()
        loop.call_later(10, pytest.fail, "the worker does not poll although there is a message")
        while not got:
            loop.run_once()
    assert got == ["hello"]


def test_a_worker_whose_task_has_ended_polls_at_once(connection, loop, monkeypatch):
    monkeypatch.setattr(channel, "POLL_INTERVAL_SECONDS", FAR_FUTURE)
    send(connection, "first")
    got = []
    with connection.Consumer(CONSUMED, callbacks=[lambda _, message: got.append(message)]) as consumer:
        connection.register_with_event_loop(loop)
        while consumer.channel._poll_timer is None:
            loop.run_once()
        send(connection, "second")
        got[0].ack()
        loop.call_later(10, pytest.fail, "the worker does not poll although its task has ended")
        while len(got) < 2:
            loop.run_once()
    assert [message.payload for message in got] == ["first", "second"]


def test_a_server_that_has_lost_the_script_is_sent_it_again(connection, server):
    send(connection, "first")
    send(connection, "second")
    got = []
    with connection.Consumer(CONSUMED, callbacks=[lambda body, _: got.append(body)]):
        connection.drain_events(timeout=5)
        server.script_flush()
        connection.drain_events(timeout=5)
    assert got == ["first", "second"]
