"""Reserved messages, as a run's task reads and ends them, on the broker that its process uses."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from celery import Celery
from kombu import Producer
from kombu.message import Message

from worker.broker.outbox import Outbox
from worker.broker.rabbitmq import reservations as rabbitmq_reservations
from worker.broker.rabbitmq.channel import Channel as RabbitMQChannel
from worker.broker.rabbitmq.publishing import Publisher
from worker.broker.rabbitmq.reservations import FRAMES, Parted
from worker.broker.rabbitmq.runs import RunMessage
from worker.broker.redis import reservations as redis_reservations
from worker.broker.redis.channel import Channel as RedisChannel
from worker.broker.redis.qos import QoS
from worker.broker.runs import Reservation


class Reservations:
    """Reserved messages of one process. Raises `RedisError` and `OperationalError`."""

    def __init__(
        self, app: Celery, outbox: Outbox, *, window_seconds: int, monotonic: Callable[[], float]
    ) -> None:
        """`window_seconds` is a quarter of the time for which it is remembered how a message was run."""
        self._app = app
        self._outbox = outbox
        self._window_seconds = window_seconds
        self._publisher = Publisher(monotonic)

    @contextmanager
    def open(self, properties: Mapping[str, Any] | None = None) -> Iterator[Reservation | None]:
        """A connection of the pool, for the time of a run; None where the broker knows no runs.

        `properties` are those of the run's message.
        """
        with self._app.producer_or_acquire() as producer:
            yield self._reservation(producer, properties or {})

    def _reservation(self, producer: Producer, properties: Mapping[str, Any]) -> Reservation | None:
        if isinstance(producer.channel, RedisChannel):
            return redis_reservations.Connected(producer, window_seconds=self._window_seconds)
        if isinstance(producer.channel, RabbitMQChannel):
            return rabbitmq_reservations.Connected(
                producer, self._outbox, self._publisher, properties.get(FRAMES, ())
            )
        return None


def part_run(message: Message) -> bool:
    """Have each message of a run be run alone, once that is rejected. False: the message is no run."""
    if isinstance(message, RunMessage):
        message.part_all()
        return True
    qos = getattr(message.channel, "qos", None)
    if isinstance(qos, QoS) and qos.is_run(message.delivery_tag):
        qos.part(message.delivery_tag)
        return True
    return False


def part_if_rejected(message: Message, reason: Any) -> Parted | None:
    """Have messages of a run not end with it, where its task rejects it for that reason."""
    if not (isinstance(reason, Parted) and isinstance(message, RunMessage)):
        return None
    message.part(left=reason.left, alone=reason.alone)
    return reason
