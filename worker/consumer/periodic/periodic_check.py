"""The base of boot steps that check something at an interval while the worker consumes."""

from typing import Any, ClassVar

from celery import bootsteps
from celery.worker.consumer import Consumer


class PeriodicCheck(bootsteps.StartStopStep):  # type: ignore[misc]
    """Calls `check` in the worker's loop, at each interval."""

    requires: tuple[str, ...] = ("celery.worker.consumer.tasks:Tasks",)
    interval_seconds: ClassVar[float]

    def __init__(self, consumer: Consumer, **options: Any) -> None:
        super().__init__(consumer, **options)
        self._timer: Any = None

    def check(self, consumer: Consumer) -> None:
        """Check once."""
        raise NotImplementedError

    def start(self, consumer: Consumer) -> None:
        """Check at each interval."""
        self._timer = consumer.timer.call_repeatedly(self.interval_seconds, self.check, (consumer,))

    def stop(self, consumer: Consumer) -> None:
        """Check no more."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    shutdown = stop
