"""Deliveries of a stream are reserved together within a limit, and each stays a message of its own."""

import pytest
from kombu import Queue

from worker.broker.redis.bodies import cost_headers
from worker.broker.redis.delivery_runs import CALLS, NO_RUN, DeliveryLimit, calls_of_run
from worker.queues import BYTES_HEADER, RECORDS_HEADER, delivery_task

QUEUE = "firehose.main.us-east-1.travel"
TASK = delivery_task("us-east-1")
MANY = DeliveryLimit(calls=4, records=2_000, bytes=2 * 2**20)


@pytest.fixture
def send(connection):
    """Send a delivery message as a producer task does."""

    def send(name, records=1, size=1, **headers):
        queue = Queue(QUEUE, routing_key=QUEUE)
        described = {"task": TASK, "id": name, "retries": 0} | cost_headers(records, size) | headers
        connection.Producer().publish(
            [[], {}, {}], routing_key=QUEUE, declare=[queue], headers=described, correlation_id=name
        )

    return send


@pytest.fixture
def reserve(connection):
    """Reserve as the next poll does, with this limit."""

    def reserve(limit=MANY):
        connection.default_channel.limit_deliveries(lambda queue: limit)
        got = []
        with connection.Consumer(Queue(QUEUE, routing_key=QUEUE), on_message=got.append):
            connection.drain_events(timeout=5)
        (message,) = got
        return message

    return reserve


def sizes(message):
    """How many messages each call of a run has; None for a message that is no run."""
    calls = calls_of_run(message.payload[1], message.delivery_tag)
    return calls and [len(tags) for tags in calls]


def test_waiting_deliveries_are_a_call_of_their_task_with_their_costs(send, reserve, server):
    send("a", records=2, size=30)
    send("b", records=3, size=40)
    run = reserve()
    assert (run.headers["task"], run.headers[RECORDS_HEADER], run.headers[BYTES_HEADER]) == (TASK, 5, 70)
    (tags,) = run.payload[1][CALLS]
    assert sorted(tags) == sorted(server.hkeys("unacked"))
    assert server.llen(QUEUE) == 0


def test_one_delivery_is_reserved_as_itself(send, reserve):
    send("a")
    assert reserve().headers["id"] == "a"


def test_a_call_has_500_records_at_most_and_batches_stay_whole(send, reserve):
    for records in (300, 200, 1, 500, 500):
        send("a", records=records)
    assert sizes(reserve()) == [2, 1, 1, 1]


@pytest.mark.parametrize(
    ("limit", "messages"),
    [
        (NO_RUN, None),
        (MANY._replace(calls=1), [2]),
        (MANY._replace(calls=2), [2, 2]),
        (MANY._replace(records=750), [2, 1]),
        (MANY._replace(bytes=3_000), [2, 1]),
        (MANY, [2, 2, 1]),
    ],
)
def test_a_run_ends_at_its_limit_and_the_others_wait_in_their_order(send, reserve, server, limit, messages):
    for name in "abcde":
        send(name, records=250, size=1_000)
    assert sizes(reserve(limit)) == messages
    assert server.llen(QUEUE) == 5 - (sum(messages) if messages else 1)


def test_a_first_batch_beyond_the_limit_is_reserved_as_itself(send, reserve):
    send("a", records=500, size=10**6)
    send("b")
    assert reserve(DeliveryLimit(calls=4, records=10, bytes=10)).headers["id"] == "a"


@pytest.mark.parametrize("headers", [{"retries": 1}, {BYTES_HEADER: None}, {RECORDS_HEADER: "secretive"}])
@pytest.mark.parametrize("position", [0, 1])
def test_a_message_that_is_in_no_run_ends_one_and_is_reserved_next(send, reserve, headers, position):
    for number, name in enumerate("ab"):
        send(name, **(headers if number == position else {}))
    assert [reserve().headers["id"] for _ in range(2)] == ["a", "b"]


def test_a_run_that_is_rejected_is_requeued_in_its_order(send, reserve):
    for name in "abc":
        send(name)
    reserve().reject(requeue=True)
    assert [reserve(NO_RUN).headers["id"] for _ in range(3)] == ["a", "b", "c"]


def test_the_messages_of_a_run_that_was_parted_are_in_no_run(send, reserve):
    send("a")
    send("b")
    run = reserve()
    run.channel.qos.part(run.delivery_tag)
    run.reject(requeue=True)
    assert [reserve().headers["id"] for _ in range(2)] == ["a", "b"]


def test_a_message_of_a_sender_is_no_run_whatever_it_says():
    assert calls_of_run({CALLS: [["tag"]]}, "a-tag-of-the-sender") is None
    assert calls_of_run({CALLS: [["tag"]], "records": []}, "run-1") is None
