"""Boot step: makes dead letters of the messages that RabbitMQ itself has dropped.

A queue with a delivery limit, a length limit or an expiry drops messages. Streams' queues that workers have
declared as quorum queues name a dead-letter exchange of ours, and so may a policy for other queues. Its queue
is consumed here.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from celery import bootsteps
from celery.worker.consumer import Consumer
from kombu import Exchange, Queue
from kombu.message import Message
from redis.exceptions import RedisError

from worker.broker.client import is_rabbitmq
from worker.broker.messages import TaskCall, queue_of
from worker.errors import TransientError
from worker.failures.alert_types import AlertType, Failure
from worker.queues import DROPPED_QUEUE

DEATHS = "x-death"
"""The header in which RabbitMQ says from where it has dropped a message, and why; the last time first."""
AGAIN_SECONDS = 1.0
"""Until the next attempt where a dead letter cannot be stored."""


class DroppedMessages(bootsteps.StartStopStep):  # type: ignore[misc]
    """Consumes what RabbitMQ has dropped."""

    requires = ("celery.worker.consumer.tasks:Tasks",)

    def __init__(self, consumer: Consumer, **options: Any) -> None:
        super().__init__(consumer, **options)
        self._consumer = consumer
        consumer.dropped_messages = self

    def include_if(self, consumer: Consumer) -> bool:
        return is_rabbitmq(consumer.app)

    def start(self, consumer: Consumer) -> None:
        """Consume the queue. Celery calls this when it has connected."""
        exchange = Exchange(DROPPED_QUEUE, "fanout", durable=True)
        consumer.task_consumer.add_queue(Queue(DROPPED_QUEUE, exchange, durable=True))

    def dead_letter(self, message: Message, call: TaskCall, again: Callable[[], object]) -> None:
        """Store a call that was dropped, and acknowledge it. `again` is called later where Redis is away."""
        task = self._consumer.app.tasks.get(call.task)
        if not hasattr(task, "undeliverable"):
            self._consumer.on_unknown_task(None, message, LookupError(call.task))
            return
        error = TransientError(failure_of(message))
        fields = {"args": call.args, "kwargs": call.kwargs, "retries": call.retries}
        task.push_request({**call.fields, **fields, "delivery_info": message.delivery_info})
        try:
            undeliverable = task.undeliverable(error, tuple(call.args), call.kwargs)
            task.dead_letter(replace(undeliverable, failure=error.failure))
            task.after_dead_lettering(undeliverable, error)
        except RedisError:
            self._consumer.timer.call_after(AGAIN_SECONDS, again, ())
        else:
            message.ack()
        finally:
            task.pop_request()


def is_dropped(message: Message) -> bool:
    """Whether RabbitMQ has dropped a message from its queue. It still bears that queue's name."""
    return (message.delivery_info or {}).get("exchange") == DROPPED_QUEUE


def failure_of(message: Message) -> Failure:
    """The failure that the dead letter and its alert show."""
    deaths = (message.headers or {}).get(DEATHS) or [{}]
    reason = str(deaths[0].get("reason", "unknown"))
    return Failure(
        AlertType.RETRY_LIMIT_EXCEEDED,
        "DroppedByRabbitMQ",
        f"RabbitMQ dropped the message from {queue_of(message)} ({reason}) before it was delivered; lift the"
        " queue's limit (`audience-firehose doctor`), then replay",
    )
