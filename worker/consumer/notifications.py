"""Boot step: a worker helps to send notifications, in a thread of its own."""

import logging
import threading
from typing import Any

from celery import bootsteps
from celery.worker.consumer import Consumer
from redis.exceptions import RedisError

from worker.errors import SettingError
from worker.failures.notifications import Notifier

INTERVAL_SECONDS = 10.0

logger = logging.getLogger(__name__)


class Notifications(bootsteps.StartStopStep):  # type: ignore[misc]
    """Runs the notifier while the worker consumes, where AUDIENCE_ALERT_URLS is set."""

    requires = ("celery.worker.consumer.tasks:Tasks",)

    def __init__(self, consumer: Consumer, **options: Any) -> None:
        super().__init__(consumer, **options)
        self._stopped: threading.Event | None = None

    def include_if(self, consumer: Consumer) -> bool:
        """Whether there is anybody to notify. Ends the worker where AUDIENCE_ALERT_URLS cannot be used."""
        try:
            return consumer.app.notifier is not None
        except SettingError as error:
            raise SystemExit(f"audience-firehose: {error}") from None

    def start(self, consumer: Consumer) -> None:
        """Send from now on what is due."""
        self._stopped = threading.Event()
        arguments = (consumer.app.notifier, self._stopped)
        threading.Thread(target=notify_until, args=arguments, name="notifications", daemon=True).start()

    def stop(self, consumer: Consumer) -> None:
        """Send nothing more. A message that is being sent is not waited for."""
        if self._stopped is not None:
            self._stopped.set()

    shutdown = stop


def notify_until(notifier: Notifier, stopped: threading.Event) -> None:
    """Run the notifier until the event is set."""
    while not stopped.wait(INTERVAL_SECONDS):
        try:
            notifier.run()
        except RedisError as error:
            logger.warning("%s: notifications wait", type(error).__name__)
