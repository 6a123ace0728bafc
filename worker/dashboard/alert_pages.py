"""The System Alerts page."""

from collections.abc import Callable
from functools import partial
from typing import Any

from tornado import web

from worker.dashboard.alerts import RANGES, AlertPage, Query, alert_page, read_query
from worker.dashboard.page import Page


class AlertsPage(Page):
    """System Alerts."""

    template = "alerts.html"

    def reader(self, *path: str) -> Callable[[], AlertPage]:
        try:
            query = read_query({name: self.get_query_argument(name) for name in self.request.query_arguments})
        except ValueError as error:
            raise web.HTTPError(400, str(error)) from None
        return partial(self.read, query)

    def read(self, query: Query) -> AlertPage:
        """Read the alerts that the query asks for."""
        services = self.services
        return alert_page(services.alerts.all(), services.alerts.states(), query, services.clock())

    def get_template_namespace(self) -> dict[str, Any]:
        return {**super().get_template_namespace(), "ranges": RANGES}
