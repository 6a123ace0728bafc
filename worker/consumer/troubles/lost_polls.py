"""Boot step: requeues what Redis has reserved by a poll whose answer was lost with the connection.

The worker has heard of none of it, and it would wait for the visibility timeout.
"""

import logging
from typing import Any

from celery import bootsteps
from celery.worker.consumer import Consumer

from worker.broker.client import is_rabbitmq

logger = logging.getLogger(__name__)


class LostPolls(bootsteps.StartStopStep):  # type: ignore[misc]
    """Knows the polls that were outstanding when the worker lost its connection."""

    requires = ("celery.worker.consumer.tasks:Tasks",)

    def __init__(self, consumer: Consumer, **options: Any) -> None:
        super().__init__(consumer, **options)
        self._lost: list[str] = []

    def include_if(self, consumer: Consumer) -> bool:
        return not is_rabbitmq(consumer.app)

    def start(self, consumer: Consumer) -> None:
        """Requeue what they reserved. Celery calls this when it has connected."""
        while self._lost:
            messages = consumer.task_consumer.channel.qos.requeue_reserved_at(self._lost[-1])
            self._lost.pop()
            if messages:
                logger.info("requeued %d messages of an answer that was lost", messages)

    def stop(self, consumer: Consumer) -> None:
        """Note the poll that is outstanding. Celery calls this when the connection is lost or closed."""
        if consumer.task_consumer and (sent_at := consumer.task_consumer.channel.unanswered_poll):
            self._lost.append(sent_at)
