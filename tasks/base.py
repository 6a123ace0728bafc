"""What all tasks share: their arguments stay unseen, and nothing they fail at is lost."""

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from celery import Task
from celery.exceptions import Ignore, Reject, Retry
from kombu.exceptions import OperationalError
from redis.exceptions import RedisError

from worker.burial import Case, bury

if TYPE_CHECKING:
    from worker.celery import AudienceFirehose

INFRASTRUCTURE_ERRORS = (RedisError, OperationalError)
"""Redis or the broker is away. No task can do anything about that but wait."""
REQUEUE_PAUSE = 1.0
"""Seconds before a message goes back to the broker for their sake, so that it does not spin."""

logger = logging.getLogger(__name__)


class Buried(Exception):
    """A message became a dead letter. The end of its task, as Flower shows it."""


class ForwarderTask(Task):  # type: ignore[misc]
    """A task whose message ends as done, as a retry, back in the broker, or as a dead letter."""

    abstract = True
    Request = "worker.requests:DiscreetRequest"
    throws = (Buried,)
    if TYPE_CHECKING:
        app: AudienceFirehose

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run the task. The worker calls this; Celery's autoretry is inside `run`."""
        try:
            return self._run_or_bury(args, kwargs)
        except INFRASTRUCTURE_ERRORS as error:
            logger.warning("%s: the message goes back to the broker", type(error).__name__)
            time.sleep(REQUEUE_PAUSE)
            raise Reject(type(error).__name__, requeue=True) from None

    def case(self, error: Exception, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Case:
        """What is left of a call that failed for good."""
        raise NotImplementedError

    def after_burial(self, case: Case, error: Exception) -> None:
        """What else an end means. Called again if the message comes back."""

    @property
    def queue_consumed(self) -> str:
        """The queue that the message came from."""
        return (self.request.delivery_info or {}).get("routing_key") or ""

    @contextmanager
    def bookkeeping(self) -> Iterator[None]:
        """For what is written down after records have moved: failing at it must not move them again."""
        try:
            yield
        except RedisError as error:
            logger.warning("%s: the records moved, but their counters did not", type(error).__name__)

    def _run_or_bury(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        try:
            return self.run(*args, **kwargs)
        except (Retry, Ignore, Reject, *INFRASTRUCTURE_ERRORS):
            raise
        except Exception as error:
            case = self.case(error, args, kwargs)
            bury(self.app.state, case)
            self.after_burial(case, error)
            end = f"{case.failure.alert_type} ({case.failure.error_code}): dead letter {case.id}"
            raise Buried(end) from None
