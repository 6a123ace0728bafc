"""A task request that shows no arguments, and that loses no message.

Celery shows a task's arguments in its events and in `inspect active`, and so in Flower; their text comes from
the message's sender. Arguments of these tasks hold identity values.

Celery requeues a message whose pool process was lost. A poison message, which ends each process that runs it,
becomes a dead letter after some deliveries. A message that is revoked, terminated or expired is run all the
same: Celery would acknowledge it, and its records would be nowhere.
"""

import logging
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from billiard.einfo import ExceptionInfo, ExceptionWithTraceback
from celery.exceptions import Reject, WorkerLostError
from celery.worker.request import Request
from celery.worker.state import task_ready
from redis.exceptions import RedisError

from worker.broker.redis.bodies import is_body_left, read_body
from worker.broker.redis.delivery_runs import calls_of_run
from worker.broker.redis.reservations import reserved_ids
from worker.broker.reservations import part_if_rejected, part_run
from worker.errors import WorkerTroubleError
from worker.failures.alert_types import Failure
from worker.privacy import HIDDEN

MAX_LOST_PROCESSES = 4
"""Pool processes that may be lost over a message. With one more, it is a poison message."""

logger = logging.getLogger(__name__)


class RedactingRequest(Request):  # type: ignore[misc]
    """A message that the worker has reserved, with its arguments hidden."""

    on_end: "Callable[[RedactingRequest], None] | None" = None
    """Called once, when the message was acknowledged or rejected."""
    has_succeeded = False
    worker_trouble: Failure | None = None
    """Why this worker could not deliver it, where the task said so."""

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
        """Always False, whatever `expires` or an operator's `revoke` says."""
        return False

    def terminate(self, pool: Any, signal: Any = None) -> None:
        """Refuse: after a process was killed in the middle of a delivery, nobody knows what was delivered."""
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

    def on_success(self, failed__retval__runtime: tuple[bool, Any, float], **options: Any) -> None:
        """Called when the task ended by itself, whether it failed or not."""
        self.has_succeeded = not failed__retval__runtime[0]
        super().on_success(failed__retval__runtime, **options)

    def on_failure(
        self, exc_info: ExceptionInfo, send_failed_event: bool = True, return_ok: bool = False
    ) -> None:
        """Celery calls this when the task failed, and when its process was lost."""
        error = _error(exc_info)
        if isinstance(error, Reject) and isinstance(error.reason, WorkerTroubleError):
            self.worker_trouble = error.reason.failure
        if isinstance(error, WorkerLostError) and self._dead_letter_if_poison():
            task_ready(self)
            self.acknowledge()
        else:
            super().on_failure(exc_info, send_failed_event, return_ok)

    def _end(self) -> None:
        if self.on_end is not None:
            self.on_end(self)
            self.on_end = None

    def _dead_letter_if_poison(self) -> bool:
        """Count a lost process, and store a dead letter where it is one too many. True: it is stored."""
        try:
            arguments = self._arguments()
            if arguments is None or self._record_lost_process(arguments[1]) <= MAX_LOST_PROCESSES:
                return False
            self._dead_letter(*arguments)
        except RedisError as error:
            logger.warning("%s: the message is requeued", type(error).__name__)
            return False
        return True

    def _arguments(self) -> tuple[list[Any], dict[str, Any]] | None:
        """The call's arguments; None where they were left in the broker and are not reserved any more."""
        args, kwargs, *_ = self._payload
        if not is_body_left(kwargs, self._message.delivery_tag):
            return args, kwargs
        call = read_body(self._message.channel, self._message.delivery_tag)
        return (call.args, call.kwargs) if call else None

    def _record_lost_process(self, kwargs: dict[str, Any]) -> int:
        """Count a process that was lost over this attempt; the number of them so far."""
        key = str(self.task.idempotency_key(self.id, kwargs))
        return int(self._app.services.idempotency.record_lost_worker(key, self._context.retries))

    def _dead_letter(self, args: list[Any], kwargs: dict[str, Any]) -> None:
        error = WorkerLostError()
        self.task.request_stack.push(self._context)
        try:
            undeliverable = self.task.undeliverable(error, tuple(args), kwargs)
            self.task.dead_letter(undeliverable)
            self.task.after_dead_lettering(undeliverable, error)
        finally:
            self.task.request_stack.pop()


class RunRequest(RedactingRequest):
    """A run. If its process is lost, each of its messages is run alone: one may be a poison message."""

    def on_failure(
        self, exc_info: ExceptionInfo, send_failed_event: bool = True, return_ok: bool = False
    ) -> None:
        """Celery calls this when the task failed, and when its process was lost."""
        error = _error(exc_info)
        parted = part_if_rejected(self._message, error.reason) if isinstance(error, Reject) else None
        if parted is None:
            super().on_failure(exc_info, send_failed_event, return_ok)
            return
        task_ready(self, successful=True)
        self.acknowledge()
        runtime = self._app.services.clock() - (self.time_start or 0)
        self.send_event("task-succeeded", result=repr(parted.result), runtime=runtime)

    def _dead_letter_if_poison(self) -> bool:
        if not part_run(self._message):
            return super()._dead_letter_if_poison()
        with suppress(RedisError):
            self._release_leases()
        return False

    def _release_leases(self) -> None:
        """Release the leases that the lost process had: its messages need not wait until they expire."""
        _, kwargs, *_ = self._payload
        calls = calls_of_run(kwargs, self._message.delivery_tag)
        if calls is None:
            return
        identifiers = reserved_ids(self._message.channel, calls)
        self._app.services.idempotency.release_all(identifiers, 0, self.id)


def _error(exc_info: ExceptionInfo) -> BaseException:
    error: BaseException = exc_info.exception
    return error.exc if isinstance(error, ExceptionWithTraceback) else error
