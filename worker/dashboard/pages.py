"""The two pages. What they show is made in `alerts` and `streams`; here it is asked for and served."""

from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial
from typing import Any

from flower.views import BaseHandler
from redis.exceptions import RedisError
from tornado import web
from tornado.ioloop import IOLoop

from worker.broker.client import queue_lengths
from worker.dashboard.alerts import RANGES, AlertPage, Query, alert_page, read_query
from worker.dashboard.labels import SKIP_LABELS, count, reason_label
from worker.failures.alert_types import AlertType, Severity
from worker.failures.alerts import AlertState
from worker.status import Status, StreamState, read_status

BADGES = {
    AlertState.OPEN: "task-state-started",
    AlertState.ACKNOWLEDGED: "text-bg-secondary",
    AlertState.RESOLVED: "text-bg-success",
    Severity.WARNING: "text-bg-warning",
    Severity.FATAL: "text-bg-danger",
    StreamState.FLOWING: "text-bg-success",
    StreamState.FAILING: "text-bg-warning",
    StreamState.PAUSED: "text-bg-danger",
    StreamState.NOT_CONNECTED: "text-bg-secondary",
}
"""Classes of Flower's style sheets."""


def utc(moment: str) -> str:
    """A time of the state (ISO 8601) as people read it, in UTC."""
    return datetime.fromisoformat(moment).astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S")


class StatePage(BaseHandler):  # type: ignore[misc]
    """A page made of what Redis and the broker say, asked in a thread so that no other request waits."""

    template: str

    @web.authenticated
    async def get(self) -> None:
        """Serve it, or say that Redis does not answer."""
        ask = self.question()
        try:
            answer = await IOLoop.current().run_in_executor(None, ask)
        except RedisError as error:
            # The error's own text may hold a password.
            self.set_status(503)
            self.render("unavailable.html", error=type(error).__name__)
        else:
            self.render(self.template, shown=answer)

    def question(self) -> Callable[[], Any]:
        """What to ask, as a call for another thread. Raises `HTTPError` where the request makes no sense."""
        raise NotImplementedError

    def get_template_namespace(self) -> dict[str, Any]:
        """What every template of ours may use."""
        ours = {
            "utc": utc,
            "count": count,
            "badges": BADGES,
            "types": list(AlertType),
            "states": list(AlertState),
            "ranges": RANGES,
            "skip_labels": SKIP_LABELS,
            "reason_label": reason_label,
        }
        return {**super().get_template_namespace(), **ours}


class AlertsPage(StatePage):
    """System Alerts."""

    template = "alerts.html"

    def question(self) -> Callable[[], AlertPage]:
        try:
            query = read_query({name: self.get_query_argument(name) for name in self.request.query_arguments})
        except ValueError as error:
            raise web.HTTPError(400, str(error)) from None
        return partial(self.alerts, query)

    def alerts(self, query: Query) -> AlertPage:
        """What the query asks for, now."""
        services = self.capp.services
        return alert_page(services.alerts.all(), services.alerts.states(), query, services.clock())


class StreamsPage(StatePage):
    """Streams."""

    template = "streams.html"

    def question(self) -> Callable[[], Status]:
        return partial(read_status, self.capp.services, partial(queue_lengths, self.capp))


class HiddenResult(BaseHandler):  # type: ignore[misc]
    """In the place of Flower's task results."""

    @web.authenticated
    def get(self, task_id: str) -> None:
        """Refuse."""
        raise web.HTTPError(403, "Results of tasks are not shown here.")
