"""`/metrics`: Flower's own, and the installation's."""

from functools import partial
from typing import Any

import prometheus_client
from flower.views import BaseHandler
from kombu.exceptions import OperationalError
from redis.exceptions import RedisError
from tornado import web
from tornado.ioloop import IOLoop

from worker.dashboard.status import read_status
from worker.failures.alert_types import Severity
from worker.metrics import Figures, StreamFigures, exposition


class MetricsPage(BaseHandler):  # type: ignore[misc]
    """In the place of Flower's `/metrics`."""

    @web.authenticated
    async def get(self) -> None:
        """Serve both; 503 where Redis or the broker does not answer, so that a scrape fails and is seen."""
        self.application.purge_offline_worker_metrics()
        read = partial(read_figures, self.capp, self.application.live_workers)
        try:
            figures = await IOLoop.current().run_in_executor(None, read)
        except (RedisError, OperationalError) as error:
            raise web.HTTPError(503, f"{type(error).__name__}: Redis or the broker does not answer") from None
        self.set_header("Content-Type", prometheus_client.CONTENT_TYPE_LATEST)
        self.write(prometheus_client.generate_latest() + exposition(figures))


def read_figures(capp: Any, workers: int) -> Figures:
    """The installation's figures now. Raises `RedisError` and `OperationalError`."""
    services = capp.services
    status, seen = read_status(capp)
    if status.problem is not None:
        raise status.problem
    still_open = services.alerts.count_open()
    waiting = services.queue_heads.observe(seen, services.clock())
    return Figures(
        streams=[StreamFigures(row.stream.queue, row.state, row.counts) for row in status.rows],
        without_stream=status.counts,
        queue_messages={queue: backlog.messages for queue, backlog in seen.items()},
        oldest_message_seconds={queue: found.age_seconds for queue, found in waiting.items()},
        delivery_seconds=services.history.delivery_seconds(),
        open_alerts={severity: still_open[severity] for severity in Severity},
        workers=workers,
    )
