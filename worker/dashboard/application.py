"""Flower, the application, with the pages this package adds and the access that it restricts."""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from celery import Celery
from flower.app import Flower, rewrite_handler
from flower.views import BaseHandler
from tornado.httputil import HTTPMessageDelegate, HTTPServerRequest
from tornado.ioloop import IOLoop
from tornado.options import OptionParser
from tornado.web import StaticFileHandler, url

from worker.dashboard.access import Access, Refusal, Request
from worker.dashboard.broker_page import BrokerPage, QueueLengths
from worker.dashboard.navigation import TEMPLATES, loader
from worker.dashboard.pages import AlertsPage, HiddenResult, StreamsPage
from worker.dashboard.redaction import RedactingEvents, RedactingInspector

STATIC = Path(__file__).with_name("static")
STATIC_PATH = "/audience/static/"
HANDLERS = [
    url(r"/alerts", AlertsPage, name="alerts"),
    url(r"/streams", StreamsPage, name="streams"),
    url(r"/broker", BrokerPage),
    url(r"/api/queues/length", QueueLengths),
    url(r"/api/task/result/(.+)", HiddenResult),
    url(rf"{STATIC_PATH}(.*)", StaticFileHandler, {"path": str(STATIC)}),
]
"""Matched before Flower's own."""


class Dashboard(Flower):  # type: ignore[misc]
    """The dashboard. Takes Flower's options and settings."""

    def __init__(self, capp: Celery, options: OptionParser, access: Access, **settings: Any) -> None:
        # Tornado keeps one loader per template path for the whole process: ours must not be Flower's.
        settings |= {"template_path": str(TEMPLATES), "template_loader": loader()}
        super().__init__(options=options, capp=capp, events=_events(capp, options), **settings)
        self.inspector = RedactingInspector(self.io_loop, capp, options.inspect_timeout / 1000)
        self.access = access
        self.add_handlers(r".*", [_prefixed(handler, options.url_prefix) for handler in HANDLERS])

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


UNAUTHORIZED = 401
TOO_MANY_REQUESTS = 429


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
