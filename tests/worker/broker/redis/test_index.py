"""The index of streams' queues that hold messages, and the sweep that finds what the index lacks."""

from types import SimpleNamespace

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from kombu import Connection, Queue
from kombu.transport import redis as kombu_redis
from kombu.utils.json import dumps

from worker.broker.redis import channel, rotation
from worker.broker.redis.index import INDEX_KEYS, LAST_ENTRY, NON_EMPTY_QUEUES
from worker.broker.redis.rotation import RESERVING_QUEUES, SWEEPING_QUEUES
from worker.broker.redis.transport import Transport
from worker.queues import CHANGES_QUEUE

STREAMS = [f"firehose.main.us-east-1.stream-{number}" for number in range(4)]
MANY = [f"firehose.main.us-east-1.stream-{number:04}" for number in range(5 * SWEEPING_QUEUES)]
(STREAM, *_) = STREAMS


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch):
    """A poll follows the other at once, and each sweeps."""
    monkeypatch.setattr(channel, "POLL_INTERVAL_SECONDS", 0)
    monkeypatch.setattr(rotation, "SWEEP_INTERVAL_SECONDS", 0)


@pytest.fixture
def make_worker(real_redis_url, server):
    """Make a worker that consumes queues and acknowledges each message."""
    connections = []

    def make(queues, transport=Transport):
        connection = Connection(real_redis_url, transport=transport)
        connections.append(connection)
        return Worker(connection, queues)

    yield make
    for connection in connections:
        connection.close()


class Worker:
    """A worker whose polls a test makes."""

    def __init__(self, connection, queues):
        self.channel = connection.channel()
        self.consumer = connection.Consumer([], channel=self.channel, callbacks=[self.receive])
        self.messages = []
        self.bodies = []
        self.consume(*queues)

    def receive(self, body, message):
        self.messages.append(message)
        self.bodies.append(body)

    def consume(self, *queues):
        for queue in queues:
            self.consumer.add_queue(Queue(queue, routing_key=queue, no_declare=True))
        self.consumer.consume()

    def poll(self):
        """The body of the message that a poll has reserved and that was then acknowledged, or None."""
        self.channel.connection.cycle._register_BRPOP(self.channel)
        try:
            self.channel._brpop_read()
        except kombu_redis.Empty:
            return None
        self.messages[-1].ack()
        return self.bodies[-1]

    def poll_often(self):
        """Poll as often as it takes to sweep once; what was reserved."""
        rounds = len(self.channel.active_queues) // min(SWEEPING_QUEUES, RESERVING_QUEUES) + 3
        found = []
        for _ in range(rounds):
            while (body := self.poll()) is not None:
                found.append(body)
        return found


def push(connection, queue, body="hello"):
    connection.Producer().publish(body, routing_key=queue, exchange="")


def indexed(server):
    return server.zrange(NON_EMPTY_QUEUES, 0, -1)


def test_a_queue_is_in_the_index_while_it_holds_messages(connection, server, make_worker):
    worker = make_worker([STREAM])
    push(connection, STREAM)
    push(connection, STREAM)
    assert indexed(server) == [STREAM]
    worker.poll()
    assert indexed(server) == [STREAM]
    worker.poll()
    assert indexed(server) == []


def test_queues_of_changes_are_not_in_the_index_as_anybody_pushes_into_them(connection, server):
    push(connection, CHANGES_QUEUE)
    assert indexed(server) == []


def test_a_message_that_is_requeued_brings_its_queue_into_the_index(connection, server, make_worker):
    worker = make_worker([STREAM])
    push(connection, STREAM)
    worker.consumer.callbacks[:] = [lambda _, message: message.requeue()]
    worker.channel.connection.cycle._register_BRPOP(worker.channel)
    worker.channel._brpop_read()
    assert (server.llen(STREAM), indexed(server)) == (1, [STREAM])


def test_a_worker_learns_of_a_queue_from_the_index_without_a_sweep(
    connection, make_worker, monkeypatch, server
):
    worker = make_worker(MANY)
    worker.poll_often()
    monkeypatch.setattr(rotation, "SWEEP_INTERVAL_SECONDS", 2**40)
    push(connection, MANY[-1])
    assert [worker.poll(), worker.poll()] == [None, "hello"]


def test_each_worker_learns_of_each_queue(connection, make_worker, monkeypatch):
    workers = [make_worker([STREAM]) for _ in range(3)]
    for worker in workers:
        worker.poll_often()
    monkeypatch.setattr(rotation, "SWEEP_INTERVAL_SECONDS", 2**40)
    for worker in [*workers, *workers]:
        push(connection, STREAM)
        assert [worker.poll(), worker.poll()] == [None, "hello"]


def test_a_worker_that_has_been_away_learns_of_more_queues_than_one_answer_names(
    connection, make_worker, monkeypatch
):
    names = [f"firehose.main.us-east-1.stream-{number:04}" for number in range(250)]
    worker = make_worker(names)
    worker.poll_often()
    monkeypatch.setattr(rotation, "SWEEP_INTERVAL_SECONDS", 2**40)
    for name in names:
        push(connection, name, name)
    assert sorted(filter(None, (worker.poll() for _ in range(260)))) == names


def push_without_index(broker, queue):
    """Push a message as a caller or an older worker does, which know nothing of the index."""
    with Connection(broker.url, transport=kombu_redis.Transport) as plain:
        push(plain, queue, "pushed by others")


def push_at_the_other_end(broker, queue):
    """Requeue a message as kombu does."""
    push_without_index(broker, "another")
    broker.server.rpush(queue, broker.server.rpop("another"))


def pop_without_index(broker, queue):
    """Pop a message as an older worker does, which leaves an entry without messages; then push."""
    push(broker.connection, queue)
    broker.server.rpop(queue)
    push_without_index(broker, queue)


def push_and_lose_the_index(broker, queue):
    """Lose the index, as in a failover to a replica that is behind."""
    push(broker.connection, queue, "pushed by others")
    broker.server.delete(*INDEX_KEYS)


def rename_another_list(broker, queue):
    """Move messages between queues, as an operator may."""
    push_without_index(broker, "another")
    broker.server.rename("another", queue)


def corrupt_the_index(broker, queue):
    """Overwrite both keys of the index."""
    for key in INDEX_KEYS:
        broker.server.delete(key)
        broker.server.rpush(key, "corrupt")
    push(broker.connection, queue, "pushed by others")


OTHERS = [
    push_without_index,
    push_at_the_other_end,
    pop_without_index,
    push_and_lose_the_index,
    rename_another_list,
    corrupt_the_index,
]


@pytest.mark.parametrize("others", OTHERS, ids=lambda others: others.__name__)
def test_the_sweep_finds_what_the_index_does_not_name(
    connection, server, real_redis_url, make_worker, others
):
    worker = make_worker([CHANGES_QUEUE, *MANY])
    push(connection, STREAM)
    worker.poll_often()
    others(SimpleNamespace(server=server, url=real_redis_url, connection=connection), MANY[-1])
    assert worker.poll_often() == ["pushed by others"]


def test_an_entry_without_messages_is_removed_by_the_worker_that_finds_it_so(connection, server, make_worker):
    worker = make_worker([STREAM])
    worker.poll_often()
    push(connection, STREAM)
    server.rpop(STREAM)
    assert indexed(server) == [STREAM]
    worker.poll_often()
    assert indexed(server) == []


def test_a_push_into_an_empty_queue_with_an_old_entry_reaches_workers_that_have_seen_that(
    connection, server, make_worker, monkeypatch
):
    worker = make_worker([STREAM])
    push(connection, STREAM)
    worker.poll_often()
    server.zadd(NON_EMPTY_QUEUES, {STREAM: int(server.get(LAST_ENTRY))})
    monkeypatch.setattr(rotation, "SWEEP_INTERVAL_SECONDS", 2**40)
    push(connection, STREAM)
    assert [worker.poll(), worker.poll()] == [None, "hello"]


def test_a_push_behind_a_message_that_was_pushed_without_the_index_brings_the_queue_into_it(
    connection, server
):
    server.lpush(STREAM, dumps({}))
    push(connection, STREAM)
    assert indexed(server) == [STREAM]


def test_a_server_that_has_lost_the_last_number_goes_on_with_smaller_ones(
    connection, server, make_worker, monkeypatch
):
    worker = make_worker([STREAM])
    server.set(LAST_ENTRY, 1_000_000)
    worker.poll_often()
    server.delete(*INDEX_KEYS)
    worker.poll()
    monkeypatch.setattr(rotation, "SWEEP_INTERVAL_SECONDS", 2**40)
    push(connection, STREAM)
    assert [worker.poll(), worker.poll()] == [None, "hello"]


def test_in_a_full_redis_a_requeued_message_brings_its_queue_into_the_index(connection, server, make_worker):
    worker = make_worker([STREAM])
    push(connection, STREAM)
    server.config_set("maxmemory", 1)
    worker.consumer.callbacks[:] = [lambda _, message: message.requeue()]
    worker.channel.connection.cycle._register_BRPOP(worker.channel)
    worker.channel._brpop_read()
    assert (server.llen(STREAM), indexed(server)) == (1, [STREAM])


ACTIONS = st.one_of(
    st.tuples(st.sampled_from(["push", "push without index", "pop without index"]), st.sampled_from(STREAMS)),
    st.tuples(st.sampled_from(["consume", "cancel"]), st.sampled_from(STREAMS)),
    st.tuples(st.sampled_from(["poll", "poll of another worker", "lose index", "lose number"]), st.none()),
)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(actions=st.lists(ACTIONS, max_size=25))
@example(actions=[("poll", None), ("push", STREAM), ("pop without index", STREAM), ("lose number", None)])
def test_no_message_waits_for_ever_whoever_pushed_it_and_whatever_happened_to_the_index(
    connection, server, make_worker, actions
):
    server.flushall()
    worker, other = make_worker([CHANGES_QUEUE, *STREAMS]), make_worker(STREAMS)
    text = SimpleNamespace(sent=0)

    def message():
        text.sent += 1
        return f"message {text.sent}"

    popped = 0
    for action, queue in actions:
        match action:
            case "push":
                push(connection, queue, message())
            case "push without index":
                push(connection, "another", message())
                server.rpoplpush("another", queue)
            case "pop without index":
                popped += server.rpop(queue) is not None
            case "consume":
                worker.consume(queue)
            case "cancel":
                worker.consumer.cancel_by_queue(queue)
            case "poll":
                worker.poll()
            case "poll of another worker":
                other.poll()
            case "lose index":
                server.delete(NON_EMPTY_QUEUES)
            case "lose number":
                server.delete(LAST_ENTRY)
    worker.consume(*STREAMS)
    worker.poll_often()
    assert sum(map(server.llen, STREAMS)) == 0
    assert len(worker.bodies) + len(other.bodies) + popped == text.sent
    if ("lose number", None) in actions:
        # An entry whose queue somebody else has emptied is new to nobody then. It goes with its next message.
        for queue in STREAMS:
            push(connection, queue)
        worker.poll_often()
    assert indexed(server) == []
