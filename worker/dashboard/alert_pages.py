"""The System Alerts page, and the page that explains the types."""

from collections.abc import Callable
from functools import partial
from typing import Any

from tornado import web

from worker.dashboard.alerts import (
    ALERTS_SHOWN,
    BAR_HEIGHT,
    BAR_WIDTH,
    BARS,
    RANGES,
    AlertPage,
    Query,
    alert_page,
    read_query,
)
from worker.dashboard.labels import amount
from worker.dashboard.page import Page
from worker.errors import NotRegistered
from worker.failures.alert_types import AlertType
from worker.state.audit import Action

ALL = "all"


class AlertsPage(Page):
    """System Alerts."""

    template = "alerts.html"

    def reader(self, *path: str) -> Callable[[], AlertPage]:
        return partial(self.read, self.parse_query(read_query))

    @web.authenticated
    async def post(self) -> None:
        """Acknowledge one alert, or all that are open."""
        query, identifier = self.parse_query(read_query), self.get_body_argument("acknowledge")
        try:
            done = await self.act(partial(self._acknowledge, identifier))
        except NotRegistered as error:
            raise web.HTTPError(404, str(error)) from None
        self.render(self.template, shown=await self.act(partial(self.read, query)), done=done)

    def read(self, query: Query) -> AlertPage:
        """Read the alerts that the query chooses."""
        services = self.services
        return alert_page(services.alerts.all(), services.alerts.states(), query, services.clock())

    def get_template_namespace(self) -> dict[str, Any]:
        ours = {
            "alerts_shown": ALERTS_SHOWN,
            "bar_height": BAR_HEIGHT,
            "bar_width": BAR_WIDTH,
            "done": "",
            "plot_width": BARS * BAR_WIDTH,
            "ranges": RANGES,
        }
        return {**super().get_template_namespace(), **ours}

    def _acknowledge(self, identifier: str) -> str:
        alerts = self.services.alerts
        if identifier == ALL:
            done = f"Acknowledged {amount(alerts.acknowledge_all(), 'alert')}."
        else:
            alerts.acknowledge(identifier)
            done = f"Acknowledged {identifier}."
        self.services.audit.record(self.actor, Action.ACKNOWLEDGE, identifier)
        return done


class HelpPage(Page):
    """Each type of alert and its advice."""

    template = "help.html"

    def reader(self, *path: str) -> Callable[[], list[AlertType]]:
        return partial(list, AlertType)
