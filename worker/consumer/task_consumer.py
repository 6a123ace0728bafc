"""Consumes task calls but those of queues that are left out: `worker.consumer.troubles.queue_troubles`."""

from collections.abc import Collection
from typing import Any

import kombu
from celery.app import amqp


class TaskConsumer(kombu.Consumer):  # type: ignore[misc]
    """Celery's consumer of task calls."""

    left_out: Collection[str] = ()
    """Queues that are not consumed, though they are to be."""

    def _basic_consume(self, queue: kombu.Queue, *args: Any, **options: Any) -> Any:
        if queue.name in self.left_out:
            return None
        return super()._basic_consume(queue, *args, **options)


class AMQP(amqp.AMQP):  # type: ignore[misc]
    """Celery's queues, consumed so."""

    Consumer = TaskConsumer
