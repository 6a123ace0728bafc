"""Flower, the application, with the pages this package adds and the access that it restricts."""

import time
from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

from celery import Celery
from flower.app import Flower, rewrite_handler
from flower.views import BaseHandler
from redis.exceptions import RedisError
from tornado import web
from tornado.httputil import HTTPMessageDelegate, HTTPServerRequest
from tornado.ioloop import IOLoop, PeriodicCallback
from tornado.options import OptionParser
from tornado.web import StaticFileHandler, url

from worker.broker.client import backlogs, may_call
from worker.dashboard.access import Access, Refusal, Request
from worker.dashboard.alert_pages import AlertsPage, HelpPage
from worker.dashboard.broker_page import BrokerPage, QueueLengths
from worker.dashboard.dead_letter_pages import (
    DeadLetterPage,
    DeadLettersExport,
    DeadLettersPage,
    JobPage,
)
from worker.dashboard.environment import EnvironmentIcon
from worker.dashboard.jobs import Jobs
from worker.dashboard.metrics_page import MetricsPage
from worker.dashboard.navigation import TEMPLATES, loader
from worker.dashboard.redaction import RedactingEvents, RedactingInspector
from worker.dashboard.stream_pages import StreamPage, StreamsOverview
from worker.dashboard.watch import Watch
from worker.failures.alert_types import Severity
from worker.queues import FORWARD, FORWARD_MPARTICLE

UNAUTHORIZED = 401
TOO_MANY_REQUESTS = 429
PENDING_INTERVAL_SECONDS = 2
NOTIFY_INTERVAL_SECONDS = 10
WATCH_INTERVAL_SECONDS = 10
STATIC = Path(__file__).with_name("static")
STATIC_PATH = "/audience/static/"


class Dashboard(Flower):  # type: ignore[misc]
    """The dashboard. Takes Flower's options and settings."""

    def __init__(
        self, capp: Celery, options: OptionParser, access: Access, environment_name: str, **settings: Any
    ) -> None:
        # Tornado keeps one loader per template path for the whole process: ours must not be Flower's.
        settings |= {"template_path": str(TEMPLATES), "template_loader": loader()}
        super().__init__(options=options, capp=capp, events=_events(capp, options), **settings)
        self.inspector = RedactingInspector(self.io_loop, capp, options.inspect_timeout / 1000)
        self.access = access
        self.environment_name = environment_name
        self.jobs = Jobs()
        self.pending = PendingAlerts(capp)
        self.watch = make_watch(capp)
        self.watching = PeriodicCallback(self._watch, WATCH_INTERVAL_SECONDS * 1000)
        self.notifications = PeriodicCallback(self._notify, NOTIFY_INTERVAL_SECONDS * 1000)
        self.add_handlers(r".*", [_prefixed(handler, options.url_prefix) for handler in HANDLERS])

    @property
    def live_workers(self) -> int:
        """Workers whose heartbeat Flower has heard lately."""
        return sum(worker.alive for worker in self.events.state.workers.values())

    def start(self) -> None:
        """Serve until the loop is stopped."""
        self.pending.start()
        self.notifications.start()
        self.watching.start()
        super().start()

    async def _watch(self) -> None:
        await IOLoop.current().run_in_executor(None, self.watch.run, self.live_workers)

    async def _notify(self) -> None:
        notifier = self.capp.notifier
        if notifier is not None:
            # Without Redis nothing can be read that somebody could be notified of.
            with suppress(RedisError):
                await IOLoop.current().run_in_executor(None, notifier.run)

    def find_handler(self, request: HTTPServerRequest, **options: Any) -> HTTPMessageDelegate:
        """Choose the handler of a request: Flower's, ours, or the one that says why there is none."""
        refusal = self.access.refusal(self._facts(request))
        delegate: HTTPMessageDelegate
        if refusal is None:
            delegate = super().find_handler(request, **options)
        else:
            delegate = self.get_handler_delegate(request, Refused, {"refusal": refusal})
        return delegate

    def _facts(self, request: HTTPServerRequest) -> Request:
        prefix = f"/{self.options.url_prefix.strip('/')}" if self.options.url_prefix else ""
        return Request(
            method=request.method or "",
            path=(request.path or "").removeprefix(prefix),
            host=request.host or "",
            authorization=request.headers.get("Authorization", ""),
            address=request.remote_ip or "",
        )


class PendingAlerts:
    """The number of fatal alerts that are open, for the navigation of every page."""

    def __init__(self, capp: Celery) -> None:
        self.fatal = 0
        self._capp = capp
        self._timer = PeriodicCallback(self._refresh, PENDING_INTERVAL_SECONDS * 1000)

    def start(self) -> None:
        """Count now and from now on."""
        IOLoop.current().add_callback(self._refresh)
        self._timer.start()

    async def _refresh(self) -> None:
        # Without Redis the last count stays: its own pages say that Redis does not answer.
        with suppress(RedisError):
            self.fatal = await IOLoop.current().run_in_executor(None, self._count)

    def _count(self) -> int:
        return int(self._capp.services.alerts.count_open()[Severity.FATAL])


class Refused(BaseHandler):  # type: ignore[misc]
    """The answer to a request that is not served."""

    def initialize(self, refusal: Refusal) -> None:
        self._refusal = refusal

    def prepare(self) -> None:
        """Answer whatever the method is, before anything of the request is used."""
        self.set_status(self._refusal.status)
        self.set_header("Content-Type", "text/plain; charset=UTF-8")
        if self._refusal.status == UNAUTHORIZED:
            self.set_header("WWW-Authenticate", 'Basic realm="audience-firehose", charset="UTF-8"')
        if self._refusal.status == TOO_MANY_REQUESTS:
            self.set_header("Retry-After", "1")
        self.finish(f"{self._refusal.reason}\n")


class HiddenResult(BaseHandler):  # type: ignore[misc]
    """In the place of Flower's task results."""

    @web.authenticated
    def get(self, task_id: str) -> None:
        """Refuse."""
        raise web.HTTPError(403, "Results of tasks are not shown here.")


HANDLERS = [
    url(r"/alerts", AlertsPage, name="alerts"),
    url(r"/alerts/types", HelpPage, name="help"),
    url(r"/dead-letters", DeadLettersPage, name="dead-letters"),
    url(r"/dead-letters/export", DeadLettersExport, name="dead-letters-export"),
    url(r"/dead-letters/([^/]+)", DeadLetterPage, name="dead-letter"),
    url(r"/jobs/([0-9a-f]+)", JobPage, name="job"),
    url(r"/streams", StreamsOverview, name="streams"),
    url(r"/streams/([^/]+)", StreamPage, name="stream"),
    url(r"/broker", BrokerPage),
    url(r"/api/queues/length", QueueLengths),
    url(r"/metrics", MetricsPage),
    url(r"/api/task/result/(.+)", HiddenResult),
    url(r"/audience/environment.svg", EnvironmentIcon, name="environment-icon"),
    url(rf"{STATIC_PATH}(.*)", StaticFileHandler, {"path": str(STATIC)}, name="audience-static"),
]
"""Matched before Flower's own."""


def make_access(options: OptionParser, viewers: Sequence[str], *, allows_control: bool) -> Access:
    """The access rules that Flower's options and our settings describe."""
    return Access(
        options.basic_auth or (),
        viewers,
        address=options.address,
        uses_oauth=bool(options.auth),
        allows_control=allows_control,
        monotonic=time.monotonic,
    )


def make_watch(capp: Any) -> Watch:
    """The watch over the queues of this application."""
    services = capp.services
    return Watch(
        registry=services.registry,
        circuit_breakers=services.circuit_breakers,
        queue_heads=services.queue_heads,
        alerts=services.alerts,
        backlogs=partial(backlogs, capp),
        is_misrouted=partial(may_call, capp, tasks=(FORWARD, FORWARD_MPARTICLE)),
        clock=services.clock,
    )


def _events(capp: Celery, options: OptionParser) -> RedactingEvents:
    """As Flower makes its own."""
    return RedactingEvents(
        capp,
        io_loop=IOLoop.current(),
        db=options.db,
        persistent=options.persistent,
        state_save_interval=options.state_save_interval,
        enable_events=options.enable_events,
        max_workers_in_memory=options.max_workers,
        max_tasks_in_memory=options.max_tasks,
    )


def _prefixed(handler: url, prefix: str | None) -> url:
    return rewrite_handler(handler, prefix) if prefix else handler
