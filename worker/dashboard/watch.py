"""Troubles that are seen from outside the workers alone: no worker works, or a sender uses a wrong queue."""

import logging
from collections.abc import Callable, Iterable, Mapping

from kombu.exceptions import OperationalError
from redis.exceptions import RedisError

from worker.broker.client import Backlog
from worker.failures.alert_types import AlertType, Failure
from worker.failures.alerts import Alerts
from worker.flow.circuit_breakers import CircuitBreakers
from worker.queues import CHANGES_QUEUE, DEFAULT_QUEUE
from worker.state.queue_heads import QueueHeads, Waiting
from worker.state.registry import Registry

STALLED_SECONDS = 60.0
NO_WORKERS = "no-workers"
WRONG_QUEUE = "wrong-queue"
"""Subjects of cooldowns."""

logger = logging.getLogger(__name__)


class Watch:
    """Looks at the queues from outside the workers and raises alerts."""

    def __init__(
        self,
        *,
        registry: Registry,
        circuit_breakers: CircuitBreakers,
        queue_heads: QueueHeads,
        alerts: Alerts,
        backlogs: Callable[[Iterable[str]], Mapping[str, Backlog]],
        is_misrouted: Callable[[str], bool],
        clock: Callable[[], float],
    ) -> None:
        """`is_misrouted` looks whether a queue holds changes, and not only what other applications sent."""
        self._registry = registry
        self._circuit_breakers = circuit_breakers
        self._queue_heads = queue_heads
        self._alerts = alerts
        self._backlogs = backlogs
        self._is_misrouted = is_misrouted
        self._clock = clock
        self._untaken_since: float | None = None
        """Unix seconds since which messages wait and no worker answers; None where either is not so."""

    def run(self, live_workers: int) -> None:
        """Raise an alert for each trouble found. Without Redis or the broker there is nothing to find."""
        try:
            self._check_queues(live_workers)
        except (RedisError, OperationalError) as error:
            logger.warning("%s: the queues are not watched", type(error).__name__)

    def _check_queues(self, live_workers: int) -> None:
        blocking = self._circuit_breakers.blocking()
        flowing = {stream.queue for stream in self._registry.snapshot().streams} - blocking.keys()
        found = dict(self._backlogs([CHANGES_QUEUE, DEFAULT_QUEUE, *sorted(flowing)]))
        waiting = self._queue_heads.observe(found, self._clock())
        misrouted = found.pop(DEFAULT_QUEUE).messages
        waiting.pop(DEFAULT_QUEUE, None)
        untaken = sum(backlog.messages for backlog in found.values())
        self._record_untaken(untaken, live_workers)
        is_untaken = self._is_untaken() and not waiting
        if (is_untaken or is_stalled(waiting, live_workers)) and self._alerts.start_cooldown(NO_WORKERS):
            self._alerts.raise_alert(no_workers(untaken))
        if misrouted and self._is_misrouted(DEFAULT_QUEUE) and self._alerts.start_cooldown(WRONG_QUEUE):
            self._alerts.raise_alert(wrong_queue(misrouted))

    def _record_untaken(self, messages: int, live_workers: int) -> None:
        """Record since when messages wait and no worker answers."""
        if live_workers or not messages:
            self._untaken_since = None
        elif self._untaken_since is None:
            self._untaken_since = self._clock()

    def _is_untaken(self) -> bool:
        """Whether messages wait and no worker answers, for a minute now. RabbitMQ tells no more."""
        return self._untaken_since is not None and self._clock() - self._untaken_since >= STALLED_SECONDS


def is_stalled(waiting: Mapping[str, Waiting], live_workers: int) -> bool:
    """Whether messages wait and no worker has taken one for a minute.

    With workers that answer, only the changes' queue tells: a stream may have to wait for its quota.
    """
    if live_workers:
        changes = waiting.get(CHANGES_QUEUE)
        return changes is not None and changes.unchanged_seconds >= STALLED_SECONDS
    return bool(waiting) and all(found.unchanged_seconds >= STALLED_SECONDS for found in waiting.values())


def no_workers(messages: int) -> Failure:
    """The failure of an installation whose messages nobody takes."""
    return Failure(
        AlertType.NO_WORKERS,
        "NoWorkers",
        f"{messages} messages wait and no worker has taken one for a minute; start some or read their logs",
    )


def wrong_queue(messages: int) -> Failure:
    """The failure of a sender that forgot `queue=`."""
    return Failure(
        AlertType.INVALID_CHANGE,
        "WrongQueue",
        f"{messages} messages lie in Celery's default queue, {DEFAULT_QUEUE}, which no worker of ours takes:"
        f' their sender must say queue="{CHANGES_QUEUE}"; `audience-firehose reroute` forwards them',
    )
