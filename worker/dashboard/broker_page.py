"""Flower's Broker page and `/api/queues/length`, with every queue of the installation.

Flower lists the queues that workers said they consume when it last asked. So it shows neither those of
paused streams nor those of stopped workers, which are the ones that hold a backlog.
"""

from collections import Counter
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

from flower.api import BaseApiHandler
from kombu.exceptions import OperationalError
from redis.exceptions import RedisError
from tornado import web
from tornado.ioloop import IOLoop

from worker.broker.client import backlogs
from worker.dashboard.page import Page
from worker.queues import CHANGES_QUEUE, DEFAULT_QUEUE, is_stream_queue
from worker.state.queue_heads import Waiting

ANSWER_SECONDS = 1.0
"""For workers to say what they consume. The answers are not waited for once all are there."""


class QueueRow(NamedTuple):
    """A queue and its backlog."""

    name: str
    messages: int
    consumers: int
    oldest_seconds: float | None
    """The age of its oldest message; None where there is none or it is not known."""


class QueuesShown(NamedTuple):
    """The content of the Broker page."""

    url: str
    """The broker's, without its password."""
    queues: list[QueueRow]
    problem: str | None
    """The class of the error, where the broker or Redis does not answer."""


class BrokerPage(Page):
    """In the place of Flower's Broker page. Without the broker, it says so and lists nothing."""

    template = "queues.html"

    def reader(self, *path: str) -> Callable[[], QueuesShown]:
        return partial(_read_page, self.capp, self.application.broker_uri, self.application.live_workers)

    def get_template_namespace(self) -> dict[str, Any]:
        return {**super().get_template_namespace(), "is_stream_queue": is_stream_queue}


class QueueLengths(BaseApiHandler):  # type: ignore[misc]
    """In the place of Flower's `/api/queues/length`, with its form and two keys more."""

    @web.authenticated
    async def get(self) -> None:
        """Serve it as JSON."""
        read = partial(_read_rows, self.capp, self.application.live_workers)
        try:
            queues = await IOLoop.current().run_in_executor(None, read)
        except (RedisError, OperationalError) as error:
            raise web.HTTPError(503, f"{type(error).__name__}: the broker or Redis does not answer") from None
        self.write({"active_queues": [_as_flower(row) for row in queues]})


def _as_flower(row: QueueRow) -> dict[str, Any]:
    return {
        "name": row.name,
        "messages": row.messages,
        "consumers": row.consumers,
        "oldest_message_seconds": row.oldest_seconds,
    }


def _count_consumers(capp: Any, workers: int) -> Counter[str]:
    """The number of workers that consume each queue now. One without an answer in time is left out."""
    if not workers:
        return Counter()
    answers = capp.control.inspect(timeout=ANSWER_SECONDS, limit=workers).active_queues() or {}
    return Counter(queue["name"] for queues in answers.values() for queue in queues)


def _read_page(capp: Any, url: str, workers: int) -> QueuesShown:
    try:
        return QueuesShown(url, _read_rows(capp, workers), None)
    except (RedisError, OperationalError) as error:
        # The error's own text may hold a password.
        return QueuesShown(url, [], type(error).__name__)


def _read_rows(capp: Any, workers: int) -> list[QueueRow]:
    services, consumers = capp.services, _count_consumers(capp, workers)
    streams = {stream.queue for stream in services.registry.snapshot().streams}
    streams |= {stream.queue for stream in services.counters.streams()}
    others = (consumers.keys() | {DEFAULT_QUEUE}) - streams - {CHANGES_QUEUE}
    found = backlogs(capp, [CHANGES_QUEUE, *sorted(streams), *sorted(others)])
    now = services.clock()
    waiting = services.queue_heads.observe(found, now)
    return [
        QueueRow(name, backlog.messages, consumers[name], _age(waiting.get(name)))
        for name, backlog in found.items()
        if name != DEFAULT_QUEUE or backlog.messages or consumers[name]
    ]


def _age(waiting: Waiting | None) -> float | None:
    return None if waiting is None else waiting.age_seconds
