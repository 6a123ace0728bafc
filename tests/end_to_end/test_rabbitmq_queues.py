"""Queues of RabbitMQ are taken as they are: classic or quorum, whoever declared them."""

import subprocess
from contextlib import contextmanager
from urllib.parse import urlsplit

import pytest
from kombu import Connection, Exchange, Producer, Queue
from stack import Stack
from waiting import eventually

from devstack import processes
from devstack.firehose import FakeFirehose
from devstack.processes import rabbitmqctl
from worker.broker.rabbitmq.queues import RENEWED_AFTER_DELIVERIES, queue_arguments
from worker.broker.rabbitmq.transport import Transport
from worker.flow.delays import delay_until_due, renew_often_delivered
from worker.queues import CHANGES_QUEUE, DROPPED_QUEUE

QUORUM = {"x-queue-type": "quorum"}
CLASSIC = {"x-queue-type": "classic"}
STREAM = "firehose.main.us-east-1.stream-1"
CUSTOMERS = [f"secretive-{number}" for number in range(40)]
LOST = "Connection to broker lost"
LIMIT = 2
"""Deliveries after which a queue of a story drops a message."""
CLOSES = (
    "ra:stop_server(quorum_queues, {{'{0}', node()}}).",
    "ra:restart_server(quorum_queues, {{'{0}', node()}}).",
)
HANGS = ("sys:suspend('{0}').", "sys:resume('{0}').")
"""What ends a quorum queue's leader, and brings it back: RabbitMQ closes who consumes, or says nothing."""
PLAIN = "kombu.transport.pyamqp:Transport"
"""Somebody else's: importing the application makes its own this process's."""
TRANSPORT = f"{Transport.__module__}:{Transport.__name__}"


@pytest.fixture
def make_stack(tmp_path, redis_url, rabbitmq_url, fresh_hosts):
    """A stack without a worker on a virtual host of its own, whose queues are of a type by default."""

    @contextmanager
    def make(default_type="classic"):
        with FakeFirehose() as firehose:
            url = f"{rabbitmq_url}/{next(fresh_hosts[default_type])}"
            stack = Stack(tmp_path, redis_url, firehose, databases=(6, 7), broker_url=url)
            stack.services.redis.flushdb()
            stack.configure("main")
            yield stack

    return make


def declare(stack, queue, arguments):
    """Declare a queue as somebody else does."""
    with Connection(stack.broker_url, transport=PLAIN) as connection:
        Queue(queue, Exchange(""), queue_arguments=arguments)(connection.default_channel).declare()


def is_of_type(stack, queue, arguments):
    """Whether a queue can be declared again so: RabbitMQ refuses it otherwise."""
    with Connection(stack.broker_url, transport=PLAIN) as connection:
        try:
            declare(stack, queue, arguments)
        except connection.channel_errors:
            return False
    return True


def deliver(stack, audience, **env):
    """Have a worker deliver many changes, each a batch."""
    with stack.worker("--concurrency", "2", env=env) as worker:
        for customer in CUSTOMERS:
            stack.send(*audience.added(customer))
        eventually(lambda: sorted(audience.customers()) == sorted(CUSTOMERS))
        assert worker.is_running


def test_a_virtual_host_whose_queues_are_quorum_queues_by_default_is_served(make_stack):
    with make_stack("quorum") as stack:
        audience = stack.audience()
        deliver(stack, audience)
        assert is_of_type(stack, CHANGES_QUEUE, QUORUM)
        assert is_of_type(stack, STREAM, QUORUM)


def test_streams_queues_are_quorum_queues_where_a_setting_says_so_and_callers_need_not_know(make_stack):
    with make_stack() as stack:
        audience = stack.audience()
        deliver(stack, audience, AUDIENCE_RABBITMQ_QUEUE_TYPE="quorum")
        assert is_of_type(stack, CHANGES_QUEUE, {})
        with Connection(stack.broker_url, transport=TRANSPORT) as connection:
            version = connection.default_channel.connection.server_properties["version"]
        assert is_of_type(stack, STREAM, queue_arguments(STREAM, "quorum", version))


@pytest.mark.parametrize(
    ("default_type", "queue", "arguments", "setting"),
    [
        ("classic", CHANGES_QUEUE, QUORUM, ""),
        ("quorum", CHANGES_QUEUE, CLASSIC, ""),
        ("classic", STREAM, {}, "quorum"),
        ("classic", STREAM, QUORUM, "classic"),
    ],
)
def test_a_queue_that_exists_is_consumed_as_it_is(make_stack, default_type, queue, arguments, setting):
    with make_stack(default_type) as stack:
        audience = stack.audience()
        declare(stack, queue, arguments)
        if queue == CHANGES_QUEUE:
            stack.caller.conf.task_queues = [Queue(queue, Exchange(""), queue, queue_arguments=arguments)]
        deliver(stack, audience, AUDIENCE_RABBITMQ_QUEUE_TYPE=setting)


@pytest.mark.parametrize("fault", [CLOSES, HANGS], ids=["closes", "hangs"])
def test_a_queue_without_a_leader_does_not_hold_up_the_others(make_stack, rabbitmq, fault):
    with make_stack() as stack:
        audience, other = stack.audience(), stack.audience()
        declare(stack, STREAM, QUORUM)
        end, begin_again = (part.format(f"{urlsplit(stack.broker_url).path[1:]}_{STREAM}") for part in fault)
        rabbitmqctl(rabbitmq.environment, "eval", end)
        with stack.worker() as worker:
            stack.send(*other.added("other"))
            eventually(lambda: other.customers() == ["other"])
            eventually(stack.services.alerts.all)
            rabbitmqctl(rabbitmq.environment, "eval", begin_again)
            stack.send(*audience.added("one"))
            eventually(lambda: audience.customers() == ["one"])
            assert LOST not in worker.output()
        assert [alert.error_code for alert in stack.services.alerts.all()] == ["QueueUnavailable"]


def test_what_rabbitmq_drops_becomes_a_dead_letter_that_can_be_replayed(make_stack):
    with make_stack() as stack:
        audience = stack.audience()
        arguments = queue_arguments(STREAM, "quorum", "3.10.0") | {"x-delivery-limit": LIMIT}
        declare(stack, STREAM, arguments)
        stack.services.circuit_breakers.pause(audience.stream, "operator")
        with stack.worker("--concurrency", "1"):
            stack.send(*audience.added("secretive-1"))
            eventually(lambda: audience.waiting() == 1)
            with Connection(stack.broker_url, transport=PLAIN) as connection:
                requeue(connection.channel(), LIMIT + 1)
                (letter,) = eventually(audience.letters)
            assert (letter.type, letter.error_code) == ("Retry Limit Exceeded", "DroppedByRabbitMQ")
            (alert,) = audience.alerts()
            assert alert.dead_letter_id == letter.id
            assert "delivery_limit" in alert.message
            stack.services.circuit_breakers.resume(audience.stream)
            replay(stack, letter)
            eventually(lambda: audience.customers() == ["secretive-1"])
            # It is counted once it has arrived.
            eventually(lambda: stack.services.counters.of(audience.stream).delivered == 1)
            counts = stack.services.counters.of(audience.stream)
            assert (counts.enqueued, counts.delivered, counts.retrying) == (1, 1, 0)


def test_what_rabbitmq_drops_and_is_no_call_of_ours_is_a_dead_letter_too(make_stack):
    with make_stack() as stack, stack.worker("--concurrency", "1"):
        with Connection(stack.broker_url, transport=PLAIN) as connection:
            dropped = Exchange(DROPPED_QUEUE, "fanout")
            Producer(connection, dropped).publish(
                [[], {}, {}], headers={"task": "nobodys", "id": "1"}, retry=True
            )
        (letter,) = eventually(stack.services.dead_letters.all)
        assert letter.error_code == "UnknownTask"


def test_a_message_that_came_back_often_is_replaced_by_one_that_did_not(make_stack, clock):
    with make_stack() as stack:
        declare(stack, STREAM, QUORUM | {"x-delivery-limit": 2 * RENEWED_AFTER_DELIVERIES})
        with Connection(stack.broker_url, transport=TRANSPORT) as connection:
            channel = connection.channel()
            Producer(channel).publish(["secretive"], STREAM, delivery_mode=2)
            for _ in range(3):
                requeue(channel, RENEWED_AFTER_DELIVERIES)
                message = taken(channel)
                assert not delay_until_due(message, clock)
                assert renew_often_delivered(message, clock)
            message = taken(channel)
            assert not renew_often_delivered(message, clock)
            assert message.payload == ["secretive"]
            message.ack()


def replay(stack, letter):
    """As an operator does: other Celery applications cannot declare the stream's queue."""
    command = processes.installed(["audience-firehose", "replay", letter.id])
    subprocess.run(command, env=processes.private_environment(stack.environment), check=True)


def requeue(channel, times):
    """Reserve the message of the stream's queue so many times, and have RabbitMQ requeue it.

    A channel that is closed at once may take the last of these with it, so the caller leaves it open.
    """
    for _ in range(times):
        message = eventually(lambda: channel.basic_get(STREAM))
        channel.basic_reject(message.delivery_tag, requeue=True)


def taken(channel):
    """The next message of the stream's queue."""
    return channel.message_to_python(eventually(lambda: channel.basic_get(STREAM)))
