"""Tells operators that the state did not answer: a failover, a restart or a network that was cut.

Meanwhile tasks requeue their messages. Alerts are in the state, so the alert is raised when it answers again.
"""

import logging
from collections.abc import Callable

from redis.exceptions import RedisError

from worker.failures.alert_types import AlertType, Failure
from worker.failures.alerts import Alerts

LASTS_AFTER_SECONDS = 5.0
"""A failover that is over sooner is no news: clients send their commands again, and nothing waits."""
SUBJECT = "state"
"""The subject under which the alert is suppressed for 15 minutes, once raised by any worker."""
ERROR_CODE = "StateUnavailable"

logger = logging.getLogger(__name__)


class StateTrouble:
    """For how long the state has not answered this worker."""

    def __init__(self, alerts: Alerts, monotonic: Callable[[], float]) -> None:
        self._alerts = alerts
        self._monotonic = monotonic
        self._answered_at = monotonic()
        self._cause = ""
        """The name of the last error; empty while the state answers."""

    def begin(self, error: RedisError) -> None:
        """The state did not answer, or with this error."""
        self._cause = type(error).__name__

    def end(self) -> None:
        """The state has answered. Raises the alert of a trouble that lasted."""
        now = self._monotonic()
        # A command that gets no answer fails only after its timeout: count from the last one that got one.
        seconds = now - self._answered_at
        try:
            is_news = self._cause and seconds >= LASTS_AFTER_SECONDS
            if is_news and self._alerts.start_cooldown(SUBJECT):
                self._alerts.raise_alert(failure_of(seconds, self._cause))
        except RedisError as error:
            logger.warning("%s: the alert could not be raised yet", type(error).__name__)
            return
        self._answered_at, self._cause = now, ""


def failure_of(seconds: float, cause: str) -> Failure:
    """The failure that the alert reports."""
    message = (
        f"the state (AUDIENCE_REDIS_URL) did not answer for {seconds:.0f} s ({cause}), and does again:"
        " changes and batches waited in the broker, and flow; where it was no planned failover or restart,"
        " see the server's log and `audience-firehose doctor`"
    )
    return Failure(AlertType.WORKER_TROUBLE, ERROR_CODE, message)
