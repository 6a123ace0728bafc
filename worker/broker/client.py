"""The broker as the command and the dashboard use it: queue lengths and task calls, through kombu."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import orjson
from celery import Celery
from kombu import Connection
from kombu.exceptions import OperationalError
from kombu.transport import redis as redis_transport
from kombu.transport.base import StdChannel

from worker.privacy import HIDDEN
from worker.queues import SEQUENCE_HEADER, is_stream_queue
from worker.store.scripts import Script

TIMEOUT_SECONDS = 5
"""To connect, and for each answer: a person is waiting."""
CONNECT_RETRIES = 1
SEND_RETRIES = {"max_retries": 3, "interval_start": 0.2, "interval_step": 0.5, "interval_max": 1.0}
PING_SECONDS = 1.0
QUEUES_PER_CALL = 500
HEAD_BYTES = 256
HEAD_DIGITS = 16
QUEUE_HEADS = Script(__package__, "queue_heads")
OLDEST = 20
"""Messages of a queue that are looked at."""
NOT_FOUND = "404"
"""AMQP's reply code for a queue that does not exist."""


class Backlog(NamedTuple):
    """The messages of a queue that no worker has reserved."""

    messages: int
    head: str = ""
    """Tells the oldest message from others; empty where there is none or the broker does not tell."""
    enqueued_at: float | None = None
    """Unix seconds of the oldest message, where it bears them."""


def is_rabbitmq(app: Celery) -> bool:
    """Whether the application's broker is RabbitMQ. Opens no connection."""
    return bool(app.connection_for_read().transport.driver_type == "amqp")


def queue_lengths(app: Celery, queues: Iterable[str]) -> dict[str, int]:
    """Messages that wait in each queue; those that workers have reserved are not counted.

    The length of a queue that does not exist is 0. Raises `kombu.exceptions.OperationalError`
    where the broker cannot be reached.
    """
    return {queue: backlog.messages for queue, backlog in backlogs(app, queues).items()}


def backlogs(app: Celery, queues: Iterable[str]) -> dict[str, Backlog]:
    """Read the backlog of each queue. Raises as `queue_lengths` does."""
    with connect(app) as connection, as_operational(connection), connection.channel() as channel:
        if isinstance(channel, redis_transport.Channel):
            return _redis_backlogs(channel, list(queues))
        return {queue: Backlog(_length(connection, channel, queue)) for queue in queues}


def has_workers(app: Celery) -> bool:
    """Whether any worker answers within a second. Raises as `queue_lengths` does."""
    with connect(app) as connection, as_operational(connection):
        return bool(app.control.ping(timeout=PING_SECONDS, limit=1, connection=connection))


def may_call(app: Celery, queue: str, tasks: Iterable[str]) -> bool:
    """Whether one of the oldest messages of a queue calls one of these tasks.

    True of a broker that shows no messages. Raises as `queue_lengths` does.
    """
    with connect(app) as connection, as_operational(connection), connection.channel() as channel:
        if not isinstance(channel, redis_transport.Channel):
            return True
        with channel.conn_or_acquire() as client:
            oldest = client.lrange(channel._q_for_pri(queue, channel.priority_steps[0]), -OLDEST, -1)
    names = [f'"{task}"'.encode() for task in tasks]
    return any(name in message for message in oldest for name in names)


class Sender:
    """Sends task calls over one connection. Their arguments appear in no header or log."""

    def __init__(self, app: Celery, connection: Connection) -> None:
        self._app = app
        self._connection = connection
        self._producer = app.amqp.Producer(connection)

    def send(
        self,
        task: str,
        kwargs: dict[str, Any],
        *,
        queue: str,
        args: Sequence[Any] = (),
        task_id: str | None = None,
        sequence: str | None = None,
    ) -> None:
        """Send a call; the broker holds it on return. Raises `kombu.exceptions.OperationalError`."""
        with as_operational(self._connection):
            self._app.send_task(
                task,
                args,
                kwargs,
                queue=queue,
                task_id=task_id,
                headers={SEQUENCE_HEADER: sequence} if sequence else None,
                producer=self._producer,
                retry=True,
                retry_policy=SEND_RETRIES,
                argsrepr=HIDDEN,
                kwargsrepr=HIDDEN,
            )


@contextmanager
def sender(app: Celery) -> Iterator[Sender]:
    """A connection to the broker, to send many calls over."""
    with connect(app) as connection:
        yield Sender(app, connection)


def connect(app: Celery) -> Connection:
    """Connect to the broker. Raises `kombu.exceptions.OperationalError` within seconds."""
    # Nothing else holds what is sent here, so that a message which too few replicas have is an error.
    options = {
        "socket_connect_timeout": TIMEOUT_SECONDS,
        "socket_timeout": TIMEOUT_SECONDS,
        "must_confirm": True,
    }
    connection = app.connection_for_write(transport_options=options)
    return connection.ensure_connection(max_retries=CONNECT_RETRIES, timeout=TIMEOUT_SECONDS)


@contextmanager
def as_operational(connection: Connection) -> Iterator[None]:
    """Raise one error for all those by which transports report that the broker is gone."""
    try:
        yield
    except connection.connection_errors as error:
        raise OperationalError(type(error).__name__) from error


def _redis_backlogs(channel: StdChannel, queues: Sequence[str]) -> dict[str, Backlog]:
    steps: list[int] = channel.priority_steps
    # Only producer tasks send to a stream's queue, and they set no priority.
    groups = (
        ([queue for queue in queues if not is_stream_queue(queue)], steps),
        ([queue for queue in queues if is_stream_queue(queue)], steps[:1]),
    )
    found: dict[str, Backlog] = {}
    with channel.conn_or_acquire() as client:
        for group, used in groups:
            # One call for many queues; not for all, as Redis does nothing else meanwhile.
            for start in range(0, len(group), QUEUES_PER_CALL):
                part = group[start : start + QUEUES_PER_CALL]
                keys = [channel._q_for_pri(queue, step) for queue in part for step in used]
                answers = orjson.loads(QUEUE_HEADS(client, keys=keys, args=[len(used), HEAD_BYTES]))
                found |= {queue: _backlog(*answer) for queue, answer in zip(part, answers, strict=True)}
    return {queue: found[queue] for queue in queues}


def _backlog(messages: int, head: str, enqueued_at: float) -> Backlog:
    return Backlog(messages, head[:HEAD_DIGITS], enqueued_at or None)


def _length(connection: Connection, channel: StdChannel, queue: str) -> int:
    # RabbitMQ closes a channel on which a queue is not found; py-amqp opens it again by itself.
    try:
        return int(channel.queue_declare(queue=queue, passive=True).message_count)
    except connection.channel_errors as error:
        if str(getattr(error, "reply_code", "")) != NOT_FOUND:
            raise
        return 0
