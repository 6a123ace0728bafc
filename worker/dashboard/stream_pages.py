"""The Streams page, the page of one stream, and what an operator does with it there."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple
from urllib.parse import unquote

from tornado import web

from schemas.settings import Configuration, Connection
from worker.dashboard import streams
from worker.dashboard.labels import rate
from worker.dashboard.page import Page
from worker.dashboard.status import read_status
from worker.dashboard.streams import (
    SORTS,
    SPARK_HEIGHT,
    SPARK_WIDTH,
    StreamQuery,
    StreamRow,
    StreamsPage,
    make_rows,
    page_of,
)
from worker.firehose.health import Check, inspect, is_passed, verdict
from worker.flow.circuit_breakers import OPERATOR
from worker.queues import Stream, is_stream_queue, stream_of
from worker.state.audit import Action
from worker.status import Status, StreamState


class StreamDetails(NamedTuple):
    """A stream, its connections and their settings. No secret is among them."""

    row: StreamRow
    configuration: Configuration | None
    connections: Mapping[str, Connection]
    checks: list[Check]
    """The answers of `test`, where it was asked for just now."""
    done: str
    """The action that an operator has just taken."""


class StreamsOverview(Page):
    """Every stream, trouble first."""

    template = "streams.html"

    def reader(self, *path: str) -> Callable[[], StreamsPage]:
        return partial(read_page, self.capp, self.parse_query(streams.read_query))

    def get_template_namespace(self) -> dict[str, Any]:
        return {
            **super().get_template_namespace(),
            **DRAWING,
            "sorts": SORTS,
            "stream_states": list(StreamState),
        }


class StreamPage(Page):
    """The page of a stream, with an operator's buttons."""

    template = "stream.html"

    def reader(self, *path: str) -> Callable[[], StreamDetails]:
        return partial(read_details, self.capp, self._stream(path[0]))

    @web.authenticated
    async def post(self, queue: str) -> None:
        """Pause, resume or test the stream, as the form's `action` says."""
        stream = self._stream(queue)
        action = ACTIONS.get(self.get_body_argument("action", ""))
        if action is None:
            raise web.HTTPError(400, f"action: must be one of {', '.join(ACTIONS)}")
        done, checks = await self.act(partial(action, self.capp, stream, self.actor))
        details = await self.act(partial(read_details, self.capp, stream))
        self.render(self.template, shown=details._replace(done=done, checks=checks))

    def get_template_namespace(self) -> dict[str, Any]:
        return {**super().get_template_namespace(), **DRAWING}

    @staticmethod
    def _stream(queue: str) -> Stream:
        name = unquote(queue)
        if not is_stream_queue(name):
            raise web.HTTPError(404, "There is no such stream.")
        return stream_of(name)


DRAWING = {"rate": rate, "spark_width": SPARK_WIDTH, "spark_height": SPARK_HEIGHT}


def read_page(capp: Any, query: StreamQuery) -> StreamsPage:
    """Read a page of streams: the status of all, and the last hour of those on it. Raises `RedisError`."""
    status, ages = _read_status(capp)
    part = page_of(query, status, ages)
    histories = capp.services.history.of(row.stream for row in part.items)
    rows = make_rows(part.items, histories, capp.services.registry.snapshot().quota, ages)
    return StreamsPage(query, status, part.of(rows))


def read_details(capp: Any, stream: Stream) -> StreamDetails:
    """Read all that is shown of one stream. Raises `RedisError`, and `HTTPError` for an unknown one."""
    status, ages = _read_status(capp)
    found = [row for row in status.rows if row.stream == stream]
    if not found:
        raise web.HTTPError(404, "There is no such stream.")
    snapshot = capp.services.registry.snapshot()
    (row,) = make_rows(found, capp.services.history.of([stream]), snapshot.quota, ages)
    connections = {name: snapshot.connections[name] for name in row.status.connection_ids}
    return StreamDetails(row, snapshot.configurations.get(stream.configuration), connections, [], "")


def _read_status(capp: Any) -> tuple[Status, Mapping[str, float]]:
    services = capp.services
    # A person who has just connected an audience expects to see it.
    services.registry.refresh()
    status, seen = read_status(capp)
    waiting = services.queue_heads.observe(seen, services.clock())
    return status, {queue: found.age_seconds for queue, found in waiting.items()}


def _pause(capp: Any, stream: Stream, actor: str) -> tuple[str, list[Check]]:
    capp.services.circuit_breakers.pause(stream, OPERATOR)
    capp.services.audit.record(actor, Action.PAUSE, stream.queue)
    return "Paused: its records wait in the broker.", []


def _resume(capp: Any, stream: Stream, actor: str) -> tuple[str, list[Check]]:
    capp.services.circuit_breakers.resume(stream)
    capp.services.audit.record(actor, Action.RESUME, stream.queue)
    return "Resumed: workers take its records again within a second.", []


def _test(capp: Any, stream: Stream, actor: str) -> tuple[str, list[Check]]:
    configuration = capp.services.registry.snapshot().configurations.get(stream.configuration)
    if configuration is None:
        return f"There is no configuration {stream.configuration}: configure it, then test again.", []
    checks = inspect(capp.clients, configuration, stream)
    done = "Tested: Firehose was asked to describe the stream; nothing was sent."
    if not is_passed(checks):
        return f"{done} Result: {verdict(checks, stream)}.", checks
    breaker = capp.services.circuit_breakers.probe_now(stream)
    if breaker and breaker.reason == OPERATOR:
        done += " An operator has paused it: resume it to have it flow."
    elif breaker:
        done += f" It was {breaker.word} ({breaker.reason}) and flows again once a batch is accepted."
    return done, checks


ACTIONS = {"pause": _pause, "resume": _resume, "test": _test}
