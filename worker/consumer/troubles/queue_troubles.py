"""Boot step: leaves out the queues that RabbitMQ does not serve, and tries them until it does.

A quorum queue has no leader while most of its members are away, or where RabbitMQ 3.10 was killed right
after the queue was declared. RabbitMQ declares such a queue, but closes the connection of who consumes it, or
does not answer for half a minute: it would hold up all queues of a worker.
"""

import logging
import time
from collections import deque
from collections.abc import Callable
from typing import Any

from celery.worker.consumer import Consumer

from worker.broker.client import is_rabbitmq
from worker.broker.rabbitmq.served_queues import unserved
from worker.consumer.periodic.periodic_check import PeriodicCheck
from worker.failures.alert_types import AlertType, Failure
from worker.failures.worker_trouble import report_worker_trouble

TRIAL_INTERVAL_SECONDS = 15.0
"""Between two trials that fail. Each may take a few seconds, in which the worker does nothing else."""
ERROR_CODE = "QueueUnavailable"

logger = logging.getLogger(__name__)


class QueueTroubles(PeriodicCheck):
    """The queues that are left out, and their trials, one at a time."""

    requires = (
        "worker.consumer.stream_queues:StreamQueues",
        "worker.consumer.dropped_messages:DroppedMessages",
    )
    interval_seconds = 1.0

    def __init__(
        self, consumer: Consumer, monotonic: Callable[[], float] = time.monotonic, **options: Any
    ) -> None:
        super().__init__(consumer, **options)
        self._monotonic = monotonic
        self._queues: deque[str] = deque()
        self._trial_at = 0.0
        """In the clock's seconds."""

    def include_if(self, consumer: Consumer) -> bool:
        return is_rabbitmq(consumer.app)

    def start(self, consumer: Consumer) -> None:
        """Leave out what RabbitMQ does not serve. Celery calls this when it has connected.

        Queues are consumed after that. Over one that is in trouble later the connection is lost.
        """
        declared = (queue.name for queue in consumer.task_consumer.queues)
        self._queues = consumer.task_consumer.left_out = deque(unserved(consumer.app, declared))
        super().start(consumer)

    def check(self, consumer: Consumer) -> None:
        """Try the next queue, where it is time. Consume it, or tell operators."""
        if not self._queues or self._monotonic() < self._trial_at:
            return
        queue = self._queues[0]
        if unserved(consumer.app, [queue]):
            self._queues.rotate(-1)
            self._trial_at = self._monotonic() + TRIAL_INTERVAL_SECONDS
            report_worker_trouble(consumer.app.services.alerts, consumer.hostname, failure_of(queue))
        else:
            logger.warning("RabbitMQ serves %s again", queue)
            self._queues.popleft()
            consumer.task_consumer.consume()


def failure_of(queue: str) -> Failure:
    """The failure that the alert reports."""
    message = (
        f"RabbitMQ does not serve {queue}, which waits, while other queues are consumed: a quorum queue needs"
        " most of its members; see `rabbitmqctl list_queues name state leader online`"
    )
    return Failure(AlertType.WORKER_TROUBLE, ERROR_CODE, message)
