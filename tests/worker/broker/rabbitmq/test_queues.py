"""How queues are declared on RabbitMQ where they do not exist."""

import pytest

from worker.broker.rabbitmq.queues import holds_calls, queue_arguments
from worker.queues import CHANGES_QUEUE, DROPPED_QUEUE, delay_queue

STREAM_QUEUE = "firehose.main.us-east-1.travel"


@pytest.mark.parametrize("queue_type", [None, "classic", "quorum"])
def test_the_queue_that_callers_declare_has_no_argument_that_a_plain_caller_does_not_give(queue_type):
    assert queue_arguments(CHANGES_QUEUE, queue_type, "3.10.8") == {}


def test_without_a_setting_a_streams_queue_is_of_the_virtual_hosts_type():
    assert queue_arguments(STREAM_QUEUE, None, "4.0.2") == {}


def test_what_rabbitmq_drops_from_a_streams_quorum_queue_is_kept_in_another():
    arguments = queue_arguments(STREAM_QUEUE, "quorum", "3.10.8")
    assert arguments["x-queue-type"] == "quorum"
    assert arguments["x-dead-letter-exchange"] == DROPPED_QUEUE
    assert arguments["x-dead-letter-strategy"] == "at-least-once"


@pytest.mark.parametrize(
    ("version", "limit"), [("3.10.8", None), ("3.13.7", None), ("", None), ("4.0.2", -1), ("4.2.0", -1)]
)
def test_the_delivery_limit_is_lifted_where_there_is_one_by_default(version, limit):
    """RabbitMQ 3 reads -1 as a limit that each message has reached."""
    assert queue_arguments(STREAM_QUEUE, "quorum", version).get("x-delivery-limit") == limit


def test_a_classic_queue_has_no_argument_but_its_type():
    assert queue_arguments(STREAM_QUEUE, "classic", "4.0.2") == {"x-queue-type": "classic"}


@pytest.mark.parametrize("queue", [CHANGES_QUEUE, DROPPED_QUEUE, STREAM_QUEUE])
def test_queues_of_calls_are_taken_as_they_are(queue):
    assert holds_calls(queue)


@pytest.mark.parametrize("queue", [delay_queue(1), "worker1@host.celery.pidbox", "celeryev.1"])
def test_other_queues_are_declared_as_asked(queue):
    assert not holds_calls(queue)
