"""Boot step: finishes runs over RabbitMQ that stay in the outbox.

A run whose process was lost is finished by whoever has one of its messages next. Nobody has one if somebody
has purged or deleted their queue: what the run made would stay in the state, with identity values, and never
be delivered.
"""

import logging
from typing import Any

from celery.worker.consumer import Consumer
from kombu.exceptions import OperationalError
from redis.exceptions import RedisError

from worker.broker.client import is_rabbitmq
from worker.broker.rabbitmq.reservations import Connected
from worker.consumer.periodic.periodic_check import PeriodicCheck

CHECK_INTERVAL_SECONDS = 300.0
"""A run that is in the outbox at two checks is finished: its messages would have come back long before."""

logger = logging.getLogger(__name__)


class UnfinishedRuns(PeriodicCheck):
    """Looks for such runs while the worker consumes."""

    interval_seconds = CHECK_INTERVAL_SECONDS

    def __init__(self, consumer: Consumer, **options: Any) -> None:
        super().__init__(consumer, **options)
        self._seen: set[str] = set()
        """IDs of the runs that were in the outbox at the last check."""

    def include_if(self, consumer: Consumer) -> bool:
        return is_rabbitmq(consumer.app)

    def check(self, consumer: Consumer) -> None:
        """Finish what was there at the last check. Without a server it stays for the next one."""
        if consumer.task_consumer.left_out:
            # What a run made may be for such a queue, and the worker would wait for RabbitMQ's answer.
            return
        try:
            with consumer.app.reservations.open() as connected:
                if isinstance(connected, Connected):
                    self._finish_late(connected)
        except (RedisError, OperationalError) as error:
            logger.warning("%s: runs of lost processes are finished later", type(error).__name__)

    def _finish_late(self, connected: Connected) -> None:
        found = connected.unfinished()
        late, self._seen = found & self._seen, found
        for run_id in late:
            connected.finish(run_id)
            logger.warning("run %s is finished late: its process was lost, and its messages are gone", run_id)
