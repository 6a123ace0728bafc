"""Consumes messages: admits a valid task call to the pool, and dead-letters a malformed message.

Celery would log a malformed message with its whole content, and drop it.
"""

import logging
from collections.abc import Callable
from functools import partial
from typing import Any
from uuid import NAMESPACE_OID, uuid5

from celery.worker import consumer
from kombu.message import Message as KombuMessage
from redis.exceptions import RedisError
from vine import promise

from worker.broker.client import is_rabbitmq
from worker.broker.messages import queue_of, read_task_call
from worker.broker.redis.bodies import whole_message
from worker.broker.redis.set_aside import forget, is_set_aside, parts_of
from worker.consumer.dropped_messages import is_dropped
from worker.consumer.flow_control import make_flow_control
from worker.consumer.request import RedactingRequest
from worker.consumer.troubles.lost_connections import give_up_connections
from worker.consumer.validation import is_valid
from worker.failures.alert_types import AlertType, Failure
from worker.failures.alerts import Cause
from worker.failures.dead_lettering import Undeliverable
from worker.failures.dead_letters import MALFORMED, Message
from worker.flow.delays import delay_message

logger = logging.getLogger(__name__)

RECONNECT_INTERVAL_SECONDS = 5
"""At most, between two attempts to connect to the broker. kombu's 30 would add to a failover's time."""
REDELIVERY_SECONDS = 1.0
"""Until a malformed message is delivered again that could not be stored as a dead letter."""


class Consumer(consumer.Consumer):  # type: ignore[misc]
    """Celery's consumer, with flow control, and with dead letters for malformed messages."""

    def __init__(
        self, on_task_request: Callable[[RedactingRequest], None], *args: Any, **options: Any
    ) -> None:
        self._run_in_pool = on_task_request
        super().__init__(self._run, *args, **options)
        services = self.app.services
        self.flow_control = make_flow_control(
            self,
            admission=services.admission,
            circuit_breakers=services.circuit_breakers,
            registry=services.registry,
            alerts=services.alerts,
            counters=services.counters,
            sends_ahead=is_rabbitmq(self.app),
        )
        self.flow_control.rate_limits_changed()

    def ensure_connected(self, conn: Any) -> Any:
        conn.ensure_connection = partial(conn.ensure_connection, interval_max=RECONNECT_INTERVAL_SECONDS)
        return super().ensure_connected(conn)

    def on_connection_error_after_connected(self, exc: Exception) -> None:
        super().on_connection_error_after_connected(exc)
        give_up_connections(self)
        self.broker_trouble.lost(self, exc)

    def reset_rate_limits(self) -> None:
        super().reset_rate_limits()
        # Celery also calls this before the parts of a consumer exist.
        if hasattr(self, "flow_control"):
            self.flow_control.rate_limits_changed()

    def create_task_handler(self, promise: Any = promise) -> Callable[[KombuMessage], None]:
        handle = super().create_task_handler(promise)

        def on_task_received(message: KombuMessage) -> None:
            try:
                call = read_task_call(message)
                if call is None or not is_valid(call.fields):
                    self.on_unknown_message(None, message)
                elif is_dropped(message):
                    self.dropped_messages.dead_letter(message, call, partial(on_task_received, message))
                elif self.flow_control.admit(message, call, partial(on_task_received, message)):
                    handle(message)
            except self.connection_errors:
                raise
            except RedisError as error:
                # Nothing is wrong with the message. The broker delivers it again.
                logger.warning("%s: a message stays unacknowledged for now", type(error).__name__)
            except Exception as error:
                self.on_decode_error(message, error)

        return on_task_received

    def _run(self, request: RedactingRequest) -> None:
        self.flow_control.message_enters(request)
        self._run_in_pool(request)

    def on_decode_error(self, message: KombuMessage, exc: Exception) -> None:
        self._dead_letter(message, type(exc).__name__, "a message that cannot be read")

    def on_unknown_message(self, body: Any, message: KombuMessage) -> None:
        self._dead_letter(message, "UnknownMessage", "a message that is no task call")

    def on_unknown_task(self, body: Any, message: KombuMessage, exc: Exception) -> None:
        self._dead_letter(message, "UnknownTask", "a call of a task that does not exist here")

    def on_invalid_task(self, body: Any, message: KombuMessage, exc: Exception) -> None:
        self._dead_letter(message, type(exc).__name__, "an invalid task call")

    def _dead_letter(self, message: KombuMessage, error_code: str, what: str) -> None:
        """Store the message as it came, then acknowledge it; if it cannot be stored, requeue it."""
        logger.error("%s arrived in %s: %s", what, queue_of(message), error_code)
        try:
            whole = whole_message(message)
            if whole is None:
                # It was requeued, and is another reservation's.
                message.requeue()
                return
            self.app.services.dead_lettering.dead_letter(self._undeliverable(whole, error_code, what))
            if is_set_aside(message):
                forget(message)
        except RedisError as error:
            logger.error("cannot store it as a dead letter: %s; it is requeued", type(error).__name__)
            # Not at once: the reason for which it could not be stored lasts.
            if not delay_message(message, self.app.services.clock() + REDELIVERY_SECONDS):
                message.requeue()
        else:
            message.ack()

    def _undeliverable(self, message: KombuMessage, error_code: str, what: str) -> Undeliverable:
        """Make the dead letter of a malformed message. Moves set-aside bytes to the dead letters."""
        body = _text(message.body)
        headers = {name: _text(value) for name, value in (message.headers or {}).items()}
        queue = _text(queue_of(message))
        what_it_is = f"{queue}:{headers.get('task')}:{headers.get('id')}:{body}"
        content: dict[str, Any] = {"headers": headers, "body": body}
        if is_set_aside(message):
            identifier = str(uuid5(NAMESPACE_OID, ascii(message.delivery_tag)))
            kept = self.app.services.dead_letters.keep_bytes(identifier, parts_of(message))
            content["bytes"] = kept._asdict()
            what = f"{what} ({kept.length} bytes, which are kept in {kept.key})"
        else:
            identifier = str(uuid5(NAMESPACE_OID, ascii(what_it_is)))
        return Undeliverable(
            id=identifier,
            message=Message(MALFORMED, queue, content),
            failure=Failure(
                AlertType.INVALID_CHANGE,
                error_code,
                f"{what} arrived in {queue}; nothing of it was delivered",
            ),
            records=1,
            cause=Cause(headers.get("task"), headers.get("id"), headers.get("origin")),
        )


def _text(content: Any) -> str:
    """Content of a message as text, from which its bytes can be restored."""
    if isinstance(content, bytes | bytearray | memoryview):
        return bytes(content).decode(errors="backslashreplace")
    try:
        return str(content)
    except RecursionError:
        return f"({type(content).__name__}, nested too deeply to be kept)"
