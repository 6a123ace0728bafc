"""Messages of changes are reserved together, and each of them stays a message of its own."""

import json
from base64 import b64decode, b64encode

import pytest
from kombu import Connection, Queue
from redis.exceptions import ResponseError

from worker.broker.redis.reservations import COMPLETED, RUN_ALONE, UNCOUNTED, Connected
from worker.broker.redis.transport import Transport
from worker.broker.runs import RUN_BYTES, RUN_MESSAGE_BYTES, HandOver, Obstacle
from worker.queues import CHANGES_QUEUE, FORWARD_RUN, RUN_MESSAGES
from worker.store.windows import REMEMBERED_WINDOWS

CHANGES = Queue(CHANGES_QUEUE, routing_key=CHANGES_QUEUE)
WINDOW_SECONDS = 100


def send(connection, *texts, **options):
    producer = connection.Producer()
    for text in texts:
        producer.publish(text, routing_key=CHANGES_QUEUE, declare=[CHANGES], **options)


def reserve(connection, queue=CHANGES_QUEUE):
    """Reserve as the next poll does: a run, or a message that is in none."""
    got = []
    with connection.Consumer(Queue(queue, routing_key=queue), on_message=got.append):
        connection.drain_events(timeout=5)
    (message,) = got
    return message


def is_run(message):
    return message.channel.qos.is_run(message.delivery_tag)


def tags_of(run):
    """The delivery tags of a run's messages, in their order."""
    [tags], *_ = run.payload
    return tags


def body_of(envelope):
    return b64decode(envelope["body"]).decode()


def bodies(server, run):
    """The content of a run's messages, as they are recorded."""
    return [body_of(json.loads(record)[0]) for record in server.hmget("unacked", tags_of(run))]


def waiting(server):
    """The messages in the queue, the next one first."""
    return [body_of(json.loads(text)) for text in reversed(server.lrange(CHANGES_QUEUE, 0, -1))]


def test_waiting_messages_are_reserved_together_each_under_its_own_tag(connection, server):
    send(connection, "a", "b", "c")
    run = reserve(connection)
    assert (run.headers["task"], is_run(run)) == (FORWARD_RUN, True)
    assert bodies(server, run) == ["a", "b", "c"]
    assert (
        sorted(tags_of(run))
        == sorted(server.hkeys("unacked"))
        == sorted(server.zrange("unacked_index", 0, -1))
    )
    assert waiting(server) == []


def test_one_message_is_a_run_too(connection):
    send(connection, "a")
    assert len(tags_of(reserve(connection))) == 1


def test_a_run_holds_no_more_messages_than_its_limit(connection, server):
    send(connection, "a")
    server.lpush(
        CHANGES_QUEUE,
        *[
            server.lindex(CHANGES_QUEUE, 0).replace('"delivery_tag": "', f'"delivery_tag": "{n}-')
            for n in range(RUN_MESSAGES)
        ],
    )
    assert len(tags_of(reserve(connection))) == RUN_MESSAGES
    assert len(tags_of(reserve(connection))) == 1


def test_a_run_holds_no_more_bytes_than_its_limit(connection, server):
    quarter = "x" * (RUN_BYTES // 4 // 4 * 3)
    send(connection, *[quarter] * 6)
    # The first, three that fit beyond it, and what is left.
    assert [len(tags_of(reserve(connection))) for _ in range(2)] == [4, 2]


@pytest.mark.parametrize(
    "apart",
    [lambda: "x" * (RUN_MESSAGE_BYTES // 4 * 3), lambda: None],
    ids=["a large one", "a malformed one"],
)
def test_a_message_that_may_be_in_no_run_is_reserved_alone_and_in_its_turn(connection, server, apart):
    send(connection, "a", "b")
    if text := apart():
        send(connection, text)
    else:
        server.lpush(CHANGES_QUEUE, "no message")
    send(connection, "c")
    reserved = [reserve(connection) for _ in range(3)]
    assert [is_run(message) for message in reserved] == [True, False, True]
    assert [bodies(server, run) for run in (reserved[0], reserved[2])] == [["a", "b"], ["c"]]


def test_messages_with_the_same_delivery_tag_are_both_reserved(connection, server):
    send(connection, "first")
    copy = json.loads(server.lindex(CHANGES_QUEUE, 0))
    server.lpush(CHANGES_QUEUE, json.dumps({**copy, "body": b64encode(b"second").decode()}))
    run = reserve(connection)
    assert bodies(server, run) == ["first", "second"]
    assert len(set(tags_of(run))) == 2


def test_a_message_of_another_client_is_reserved_by_parsing_it(connection, server):
    send(connection, "a")
    envelope = json.loads(server.rpop(CHANGES_QUEUE))
    server.lpush(CHANGES_QUEUE, json.dumps({key: envelope[key] for key in sorted(envelope, reverse=True)}))
    assert bodies(server, reserve(connection)) == ["a"]


def test_acknowledging_a_run_leaves_its_messages_recorded(connection, server):
    send(connection, "a", "b")
    run = reserve(connection)
    run.ack()
    assert server.hlen("unacked") == server.zcard("unacked_index") == 2
    assert run.channel.qos.can_consume()


def test_a_run_that_is_requeued_waits_in_its_order_behind_what_came_since(connection, server):
    send(connection, "a", "b")
    run = reserve(connection)
    send(connection, "c")
    run.reject(requeue=True)
    assert waiting(server) == ["c", "a", "b"]
    assert (server.hlen("unacked"), server.zcard("unacked_index")) == (0, 0)


def test_a_run_in_nobodys_hands_is_requeued_in_its_order_when_the_worker_stops(connection, server):
    send(connection, "a", "b", "c")
    run = reserve(connection)
    send(connection, "d")
    run.channel.close()
    assert waiting(server) == ["a", "b", "c", "d"]


def test_the_messages_of_a_parted_run_are_reserved_alone_from_then_on(connection, server):
    send(connection, "a", "b")
    run = reserve(connection)
    run.channel.qos.part(run.delivery_tag)
    run.reject(requeue=True)
    for _ in range(2):
        messages = [reserve(connection) for _ in range(2)]
        assert [(is_run(m), m.body) for m in messages] == [(False, b"a"), (False, b"b")]
        for message in messages:
            message.requeue()


def test_a_message_of_a_run_that_comes_back_after_the_visibility_timeout_is_an_ordinary_message(
    connection, server
):
    send(connection, "a", "b")
    run = reserve(connection)
    (tag, _) = tags_of(run)
    server.zadd("unacked_index", {tag: 1})
    run.channel.qos.restore_visible(interval=1)
    assert waiting(server) == ["a"]
    assert tags_of(reserve(connection)) == [tag]


def test_messages_of_a_priority_are_a_run_and_return_to_their_priority(connection, server):
    send(connection, "later", "later too", priority=9)
    send(connection, "at once", priority=0)
    assert bodies(server, reserve(connection)) == ["at once"]
    run = reserve(connection)
    assert bodies(server, run) == ["later", "later too"]
    run.channel.qos.requeue(tags_of(run), alone=True)
    assert server.llen(run.channel._q_for_pri(CHANGES_QUEUE, 9)) == 2
    send(connection, "at once, too", priority=0)
    assert bodies(server, reserve(connection)) == ["at once, too"]


class Broker:
    """The reserved messages, as a pool process reads and ends them over its own connection."""

    def __init__(self, connection):
        self.connected = Connected(connection.Producer(), window_seconds=WINDOW_SECONDS)

    def hand_over(self, completed, repeated=(), messages=(), run_id="run", counts="{}"):
        self.connected.read(["any"])
        return self.connected.hand_over(HandOver(run_id, completed, repeated, messages, counts))


@pytest.fixture
def broker(connection):
    return Broker(connection)


@pytest.fixture
def tags(connection):
    """The tags of three reserved messages."""
    send(connection, "a", "b", "c")
    return tags_of(reserve(connection))


def keys(tags):
    return {tag: tag.encode() for tag in tags}


def lists(server, *names):
    return [list(reversed(server.lrange(name, 0, -1))) for name in names]


def test_a_hand_over_pushes_what_was_made_and_ends_the_messages(broker, server, tags):
    assert broker.hand_over(keys(tags[:2]), tags[2:], [("s", "1"), ("t", "2"), ("s", "3")], counts="5") == {}
    assert lists(server, "s", "t") == [["1", "3"], ["2"]]
    assert (server.hlen("unacked"), server.zcard("unacked_index")) == (0, 0)
    assert broker.connected.uncounted() == {"run": "5"}
    assert [broker.connected.keep_from_runs(tag.encode()) for tag in tags] == [False, False, True]


def test_nothing_is_handed_over_where_a_message_is_not_reserved_any_more(broker, connection, server, tags):
    broker.connected.requeue([tags[1]])
    assert broker.hand_over(keys(tags), messages=[("s", "1")]) == {tags[1]: Obstacle.GONE}
    assert (lists(server, "s"), server.hlen("unacked"), server.hlen(UNCOUNTED)) == ([[]], 2, 0)


def test_nothing_is_handed_over_where_a_message_was_completed_before(broker, server, tags):
    broker.hand_over({tags[0]: b"key"})
    again = {tags[1]: b"key", tags[2]: b"other"}
    assert broker.hand_over(again, messages=[("s", "1")], run_id="other") == {tags[1]: Obstacle.COMPLETED}
    assert (lists(server, "s"), server.hlen("unacked")) == ([[]], 2)
    assert broker.hand_over({tags[2]: b"other"}, [tags[1]], [("s", "1")], run_id="other") == {}
    assert (lists(server, "s"), server.hlen("unacked")) == ([["1"]], 0)


def test_nothing_is_handed_over_where_a_message_is_or_was_run_alone(broker, server, tags):
    assert broker.connected.keep_from_runs(b"key")
    run = {tags[0]: b"key", tags[1]: b"other"}
    assert broker.hand_over(run, messages=[("s", "1")]) == {tags[0]: Obstacle.RUN_ALONE}
    (window,) = server.keys(f"{RUN_ALONE}:*")
    number = int(window.rpartition(":")[2])
    server.rename(window, f"{RUN_ALONE}:{number - REMEMBERED_WINDOWS + 1}")
    assert broker.hand_over(run, messages=[("s", "1")]) == {tags[0]: Obstacle.RUN_ALONE}
    assert (lists(server, "s"), server.hlen("unacked")) == ([[]], 3)


def test_a_script_that_is_sent_again_because_its_answer_was_lost_hands_over_once(broker, server, tags):
    for _ in range(2):
        assert broker.hand_over(keys(tags), messages=[("s", "1")]) == {}
    assert lists(server, "s") == [["1"]]


def test_a_full_redis_refuses_all_of_a_hand_over(broker, server, tags):
    server.config_set("maxmemory", 1)
    with pytest.raises(ResponseError):
        broker.hand_over(keys(tags), messages=[("s", "1")])
    assert (lists(server, "s"), server.hlen("unacked"), server.hlen(UNCOUNTED)) == ([[]], 3, 0)


def test_a_completed_message_is_remembered_for_four_windows(broker, server, tags, monkeypatch):
    broker.hand_over(keys(tags))
    (window,) = server.keys(f"{COMPLETED}:*")
    assert (
        WINDOW_SECONDS * (REMEMBERED_WINDOWS - 1) < server.ttl(window) <= WINDOW_SECONDS * REMEMBERED_WINDOWS
    )
    number = int(window.rpartition(":")[2])
    server.rename(window, f"{COMPLETED}:{number - REMEMBERED_WINDOWS + 1}")
    assert not broker.connected.keep_from_runs(tags[0].encode())
    server.rename(
        f"{COMPLETED}:{number - REMEMBERED_WINDOWS + 1}", f"{COMPLETED}:{number - REMEMBERED_WINDOWS}"
    )
    assert broker.connected.keep_from_runs(tags[0].encode())


def test_the_largest_run_is_handed_over(broker, server, connection):
    send(connection, *map(str, range(RUN_MESSAGES)))
    tags = tags_of(reserve(connection))
    assert broker.hand_over({tag: tag.encode()[:16] for tag in tags}, messages=[("s", "1")] * 3000) == {}
    assert (server.llen("s"), server.hlen("unacked")) == (3000, 0)


def test_a_message_that_was_reserved_again_by_another_worker_is_completed_by_the_first_to_hand_it_over(
    broker, connection, server, tags, real_redis_url
):
    broker.connected.requeue([tags[0]], alone=True)
    with Connection(real_redis_url, transport=Transport) as other:
        again = reserve(other)
        assert again.delivery_tag == tags[0]
        assert broker.hand_over(keys(tags), messages=[("s", "1")]) == {}
        assert Broker(other).hand_over({tags[0]: tags[0].encode()}, messages=[("s", "2")], run_id="other")
        assert lists(server, "s") == [["1"]]


def test_what_is_collected_is_not_sent(connection, server):
    connected = Connected(connection.Producer(), window_seconds=WINDOW_SECONDS)
    with connected.collecting() as messages:
        connected.producer.publish("hello", routing_key="queue")
    assert not server.exists("queue")
    ((name, text),) = messages
    assert (name, json.loads(text)["properties"]["delivery_info"]["routing_key"]) == ("queue", "queue")


def envelope(tag, **members):
    return {
        "body": b64encode(b"malformed").decode(),
        "content-type": "application/json",
        "content-encoding": "utf-8",
        "headers": {},
        "properties": {
            "delivery_info": {"exchange": "", "routing_key": "q"},
            "body_encoding": "base64",
            "delivery_tag": tag,
        },
        **members,
    }


TAIL = {"delivery_info": {"exchange": "", "routing_key": "q"}, "delivery_tag": "tail"}
STREAM_QUEUE = "firehose.main.us-east-1.travel"


@pytest.mark.parametrize("queue", [CHANGES_QUEUE, STREAM_QUEUE, "other"])
@pytest.mark.parametrize(
    "text",
    [
        json.dumps({"properties": TAIL}),
        json.dumps({"other": TAIL}),
        json.dumps({"body": "", "headers": {}, "other": TAIL}),
        json.dumps({"body": "", "headers": {}, "properties": [], "other": TAIL}),
        json.dumps({"body": 7, "headers": {}, "properties": 7, "other": TAIL}),
        json.dumps(envelope("run-of-somebody")),
        json.dumps(envelope("first", other=TAIL)),
        json.dumps(envelope("first", alone=True, other=TAIL)),
        '{"no json": ' + json.dumps({"other": TAIL}),
        '{"body": ' + "[" * 100_000 + json.dumps({"other": TAIL}),
        json.dumps(envelope("first", headers={"x": {"__type__": "decimal", "__value__": "x"}})),
        json.dumps(envelope("first", headers=[])),
    ],
)
def test_a_malformed_message_is_reserved_under_the_tag_by_which_it_is_ended(connection, server, queue, text):
    server.lpush(queue, text)
    message = reserve(connection, queue)
    if is_run(message):
        message.channel.qos.part(message.delivery_tag)
        message.requeue()
        message = reserve(connection, queue)
    message.ack()
    assert (server.hlen("unacked"), server.zcard("unacked_index"), server.llen(queue)) == (0, 0, 0)


def test_a_message_that_is_reserved_alone_replaces_no_record_of_another(connection, server):
    server.lpush(CHANGES_QUEUE, json.dumps(envelope("one")))
    reserve(connection)
    server.lpush(CHANGES_QUEUE, json.dumps({"alone": True, **envelope("one")}))
    message = reserve(connection)
    assert server.hlen("unacked") == 2
    message.ack()
    assert server.hkeys("unacked") == ["one"]


def test_a_body_that_holds_a_quote_is_not_left_in_the_broker(connection, server):
    text = json.dumps(envelope("one", body='a "quoted" word' * 200, headers={"firehose_bytes": 7}))
    server.lpush(STREAM_QUEUE, text)
    assert reserve(connection, STREAM_QUEUE)._raw["body"] == 'a "quoted" word' * 200
