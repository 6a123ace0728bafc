"""Reserved messages, as a run's task reads and ends them, on the broker that the process is connected to."""

from collections.abc import Iterator
from contextlib import contextmanager

from celery import Celery

from worker.broker.redis.channel import Channel
from worker.broker.redis.reservations import COMPLETED, Connected
from worker.broker.runs import Reservation
from worker.store.windows import Windows


class Reservations:
    """Reserved messages of one process. Raises `RedisError` and `OperationalError`."""

    def __init__(self, app: Celery, *, window_seconds: int) -> None:
        """`window_seconds` is a quarter of the time for which a completed message is remembered."""
        self._app = app
        self._completed = Windows(COMPLETED, window_seconds)

    @contextmanager
    def open(self) -> Iterator[Reservation | None]:
        """A connection of the pool, for the time of a run; None where the broker knows no runs."""
        with self._app.producer_or_acquire() as producer:
            is_redis = isinstance(producer.channel, Channel)
            yield Connected(producer, self._completed) if is_redis else None
