"""Bodies of delivery messages stay in the broker until a pool process reads them."""

import json
from random import Random

import pytest
from kombu import Queue

from worker.broker.redis.bodies import BODY_TAG, cost_headers, is_body_left, read_body, whole_message

STREAM = "firehose.main.us-east-1.travel"
QUEUE = Queue(STREAM, routing_key=STREAM)
RECORDS = [Random(1).randbytes(5000).hex()]
"""They do not shrink by much."""
COST = cost_headers(1, 10_000)


def send(connection, *, queue=QUEUE, records=RECORDS, headers=COST, **options):
    """A call as Celery sends it."""
    connection.Producer(serializer="json").publish(
        ([], {"records": records}, {}),
        routing_key=queue.name,
        declare=[queue],
        headers={"task": "deliver", "id": "one", **headers},
        **options,
    )


def reserve(connection, queue=QUEUE):
    got = []
    with connection.Consumer([queue], on_message=got.append):
        connection.drain_events(timeout=5)
    (message,) = got
    return message


def arguments(message):
    _, kwargs, *_ = message.payload
    return kwargs


@pytest.mark.parametrize("compression", [None, "zlib"])
def test_the_message_names_the_tag_under_which_the_body_is(connection, compression):
    send(connection, compression=compression)
    message = reserve(connection)
    assert arguments(message) == {BODY_TAG: message.delivery_tag}
    assert message.headers["id"] == "one"
    assert is_body_left(arguments(message), message.delivery_tag)
    assert read_body(message.channel, message.delivery_tag).kwargs == {"records": RECORDS}


def test_the_main_process_does_not_receive_the_body(connection, server):
    send(connection, records=["secretive" * 10**6])
    before = server.info("stats")["total_net_output_bytes"]
    reserve(connection)
    assert server.info("stats")["total_net_output_bytes"] - before < 100_000


@pytest.mark.parametrize(
    "options",
    [
        {"headers": {}},
        {"records": ["a short one"]},
        {"queue": Queue("other", routing_key="other")},
    ],
    ids=["its cost is not known", "it is small", "it is no delivery message"],
)
def test_another_message_comes_with_its_body(connection, options):
    send(connection, **options)
    assert "records" in arguments(reserve(connection, options.get("queue", QUEUE)))


def test_a_body_that_was_requeued_is_another_reservations(connection):
    send(connection)
    message = reserve(connection)
    message.requeue()
    assert read_body(message.channel, message.delivery_tag) is None


def test_a_message_whose_body_stayed_comes_back_with_it(connection):
    send(connection)
    for _ in range(3):
        message = reserve(connection)
        assert read_body(message.channel, message.delivery_tag).kwargs == {"records": RECORDS}
        message.requeue()


def test_a_malformed_body_is_kept_as_text(connection, server):
    send(connection)
    envelope = json.loads(server.rpop(STREAM))
    envelope["properties"]["body_encoding"] = "none"
    server.lpush(STREAM, json.dumps(envelope))
    message = reserve(connection)
    kept = read_body(message.channel, message.delivery_tag).kwargs
    assert json.loads(kept["malformed"])["headers"]["id"] == "one"


@pytest.mark.parametrize(
    "kwargs",
    [{}, {BODY_TAG: 7}, {BODY_TAG: "tag", "records": []}, {"records": []}, {BODY_TAG: "another message's"}],
)
def test_arguments_of_another_kind_name_no_body(kwargs):
    assert not is_body_left(kwargs, "tag")


def test_the_whole_of_a_message_is_read_where_it_cannot_be_run(connection):
    send(connection)
    message = reserve(connection)
    whole = whole_message(message)
    assert arguments(whole) == {"records": RECORDS}
    assert (whole.headers, whole.delivery_tag) == ({**message.headers}, message.delivery_tag)
    message.requeue()
    assert whole_message(message) is None


def test_a_message_that_has_its_body_is_whole(connection):
    send(connection, headers={})
    message = reserve(connection)
    assert whole_message(message) is message
