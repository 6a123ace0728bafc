"""Flower, the application, with what this package adds and takes away."""

from typing import Any

from celery import Celery
from flower.app import Flower, rewrite_handler
from tornado.ioloop import IOLoop
from tornado.options import OptionParser
from tornado.web import url

from worker.dashboard.navigation import TEMPLATES, loader
from worker.dashboard.pages import AlertsPage, HiddenResult, StreamsPage
from worker.dashboard.redaction import RedactingEvents, RedactingInspector

HANDLERS = [
    url(r"/alerts", AlertsPage, name="alerts"),
    url(r"/streams", StreamsPage, name="streams"),
    url(r"/api/task/result/(.+)", HiddenResult),
]
"""Asked before Flower's own."""


class Dashboard(Flower):  # type: ignore[misc]
    """The dashboard. Takes Flower's options and settings."""

    def __init__(self, capp: Celery, options: OptionParser, **settings: Any) -> None:
        # Tornado keeps one loader per template path for the whole process: ours must not be Flower's.
        settings |= {"template_path": str(TEMPLATES), "template_loader": loader()}
        super().__init__(options=options, capp=capp, events=_events(capp, options), **settings)
        self.inspector = RedactingInspector(self.io_loop, capp, options.inspect_timeout / 1000)
        self.add_handlers(r".*", [_prefixed(handler, options.url_prefix) for handler in HANDLERS])


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
