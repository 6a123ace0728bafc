"""A task request that keeps what it carries to itself, and ends where it would never end.

Celery shows a task's arguments in its events, in `inspect active` and so in Flower, and
the text of them comes from whoever sent the message. Ours hold identity values.

A message whose pool process dies goes back to the broker; one that kills each process
that takes it becomes a dead letter. Nobody can take back what was accepted: Celery would
acknowledge what is revoked, terminated or expired, and its records would be nowhere.
"""

import logging
from collections.abc import Callable
from typing import Any

from billiard.einfo import ExceptionInfo, ExceptionWithTraceback
from celery.exceptions import WorkerLostError
from celery.worker.request import Request
from celery.worker.state import task_ready
from redis.exceptions import RedisError

from worker.failures.dead_lettering import dead_letter
from worker.upstream import limit_last_result_wait

HIDDEN = "(not shown)"
DEATHS_ALLOWED = 4
"""Pool processes that may die over a message before it is taken for the cause."""

LAST_RESULT_WAIT_SECONDS = 2
"""For which an ending pool process waits until its last result is read. Supervisors kill sooner than after
billiard's 30 seconds, and once the main process has stopped reading the wait is in vain."""

logger = logging.getLogger(__name__)

limit_last_result_wait(LAST_RESULT_WAIT_SECONDS)

# At DEBUG, Celery writes down the messages that it hands to its pool.
logging.getLogger("celery.pool").setLevel(logging.INFO)


class RedactingRequest(Request):  # type: ignore[misc]
    """Says which task it is, and nothing of its arguments."""

    on_end: "Callable[[RedactingRequest], None] | None" = None
    """Called when the pool is done with it."""

    def __init__(self, message: Any, **options: Any) -> None:
        super().__init__(message, **options)
        self._argsrepr = self._kwargsrepr = HIDDEN
        self.name = self._type
        self._args = self._kwargs = None
        # A limit of the sender's would kill the pool process in the middle of a delivery.
        self.time_limits = (None, None)
        # The pool process decodes the body itself: sending it the arguments once more is waste.
        self._request_dict.update(argsrepr=HIDDEN, kwargsrepr=HIDDEN, args=(), kwargs={})

    def revoked(self) -> bool:
        """No, whatever `expires` or an operator's `revoke` says."""
        return False

    def terminate(self, pool: Any, signal: Any = None) -> None:
        """A pool process that is killed in the middle of a delivery leaves it open what was delivered."""
        logger.warning("message %s is not terminated; `audience-firehose pause` stops a stream", self.id)

    def acknowledge(self) -> None:
        try:
            super().acknowledge()
        finally:
            self._end()

    def reject(self, requeue: bool = False) -> None:
        try:
            super().reject(requeue)
        finally:
            self._end()

    def on_failure(
        self, exc_info: ExceptionInfo, send_failed_event: bool = True, return_ok: bool = False
    ) -> None:
        """Called where the task did not end by itself, too."""
        if isinstance(_error(exc_info), WorkerLostError) and self._is_deadly():
            task_ready(self)
            self.acknowledge()
        else:
            super().on_failure(exc_info, send_failed_event, return_ok)

    def on_timeout(self, soft: bool, timeout: float) -> None:
        """Called where the worker's own time limit has killed the pool process."""
        if not soft and self._is_deadly():
            self.acknowledge()
        super().on_timeout(soft, timeout)
        if not soft:
            self._end()

    def _end(self) -> None:
        if self.on_end is not None:
            self.on_end(self)
            self.on_end = None

    def _is_deadly(self) -> bool:
        """Whether this message has killed too often, and is a dead letter now."""
        try:
            if (
                self._app.services.idempotency.record_lost_worker(self._attempt_id(), self._context.retries)
                <= DEATHS_ALLOWED
            ):
                return False
            self._dead_letter()
        except RedisError as error:
            logger.warning("%s: the message goes back to the broker", type(error).__name__)
            return False
        return True

    def _attempt_id(self) -> str:
        return str(self.task.idempotency_key(self.id, self._payload[1]))

    def _dead_letter(self) -> None:
        args, kwargs, _ = self._payload
        error = WorkerLostError()
        self.task.request_stack.push(self._context)
        try:
            undeliverable = self.task.undeliverable(error, tuple(args), kwargs)
            dead_letter(self._app.services, undeliverable, even_if_full=self.task.empties_redis)
            self.task.after_dead_lettering(undeliverable, error)
        finally:
            self.task.request_stack.pop()


def _error(exc_info: ExceptionInfo) -> BaseException:
    error: BaseException = exc_info.exception
    return error.exc if isinstance(error, ExceptionWithTraceback) else error
