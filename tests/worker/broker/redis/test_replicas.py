"""Messages that replicas confirm: this project's, and those of callers by the documented lines."""

import pytest
from celery import Celery
from confirming_caller import confirm_messages
from kombu import Connection
from kombu.transport import redis as kombu_redis

from worker.broker.redis.transport import SentinelChannel, Transport, register_redis_transport
from worker.queues import CHANGES_QUEUE
from worker.store.replicas import TooFewReplicas

REPLY_QUEUE = "some.reply.celery.pidbox"


@pytest.fixture
def publish(pair):
    """Send a message over a connection with these transport options."""

    def publish(queue=CHANGES_QUEUE, headers=None, **options):
        with Connection(pair.url, transport=Transport, transport_options=options) as connection:
            connection.Producer().publish("hello", routing_key=queue, headers=headers)

    return publish


@pytest.mark.parametrize("headers", [{}, {"retries": 1}])
def test_a_message_is_confirmed_by_the_replica(publish, master, headers):
    publish(wait_replicas=1, must_confirm=True, headers=headers)
    assert master.llen(CHANGES_QUEUE) == 1


def test_a_worker_goes_on_where_its_message_is_not_confirmed(publish, master, frozen, caplog):
    publish(wait_replicas=1)
    assert master.llen(CHANGES_QUEUE) == 1
    assert "0 of 1 replicas" in caplog.text


def test_the_command_fails_where_its_message_is_not_confirmed(publish, frozen):
    with pytest.raises(TooFewReplicas):
        publish(wait_replicas=1, must_confirm=True)


def test_messages_of_other_queues_wait_for_no_replica(publish, master, frozen):
    publish(REPLY_QUEUE, wait_replicas=1, must_confirm=True)
    assert master.llen(REPLY_QUEUE) == 1


def test_the_option_of_sentinels_is_read_beside_ours():
    assert {"master_name", "sentinel_kwargs", "wait_replicas"} <= set(SentinelChannel.from_transport_options)


@pytest.fixture
def caller(pair, monkeypatch):
    """An app of a caller that has the lines of the documentation."""
    register_redis_transport()
    monkeypatch.setattr(kombu_redis.Channel, "_put", kombu_redis.Channel._put)
    confirm_messages(timeout_milliseconds=50)
    app = Celery("caller", broker=pair.url, set_as_current=False)
    with Connection(pair.url, transport=kombu_redis.Transport) as connection:
        yield lambda: app.send_task(
            "audience.forward", queue=CHANGES_QUEUE, producer=app.amqp.Producer(connection)
        )


def test_the_documented_lines_confirm_a_callers_message(caller, master):
    caller()
    assert master.llen(CHANGES_QUEUE) == 1


def test_the_documented_lines_tell_a_caller_that_its_message_is_not_confirmed(caller, frozen):
    with pytest.raises(RuntimeError, match="too few replicas"):
        caller()
