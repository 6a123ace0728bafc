"""A page of ours: read in a thread, guarded by headers and tokens, and kept fresh by a script of ours."""

from collections.abc import Callable
from dataclasses import asdict
from http.client import responses
from typing import Any, TypeVar

from flower.views import BaseHandler
from kombu.exceptions import OperationalError
from redis.exceptions import RedisError
from tornado import web
from tornado.ioloop import IOLoop
from tornado.web import RequestHandler

from worker.dashboard.labels import (
    BADGES,
    SKIP_LABELS,
    advice,
    age,
    amount,
    clock_time,
    count,
    quantile,
    reason_label,
    section_of,
    size,
    utc,
    with_code,
)
from worker.failures.alert_types import AlertType
from worker.failures.alerts import AlertState

T = TypeVar("T")

REFRESH_SECONDS = 5
FLOWERS_ERRORS = (401, 403, 404, 500)
"""Statuses that Flower answers with pages of its own."""
CONTENT_SECURITY_POLICY = "; ".join(
    (
        "default-src 'self'",
        # Bootstrap's style sheet draws its icons this way.
        "img-src 'self' data:",
        "base-uri 'none'",
        "form-action 'self'",
        "frame-ancestors 'none'",
        "object-src 'none'",
    )
)
HEADERS = {
    "Content-Security-Policy": CONTENT_SECURITY_POLICY,
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "same-origin",
    "Cache-Control": "no-store",
}


class Page(BaseHandler):  # type: ignore[misc]
    """A page made of what Redis and the broker say."""

    template: str

    def set_default_headers(self) -> None:
        super().set_default_headers()
        for name, value in HEADERS.items():
            self.set_header(name, value)

    def check_xsrf_cookie(self) -> None:
        """Check Tornado's token always. Flower asks for it only where OAuth is configured."""
        super().check_xsrf_cookie()
        RequestHandler.check_xsrf_cookie(self)

    @property
    def services(self) -> Any:
        """The parts that share the state's Redis."""
        return self.capp.services

    @property
    def actor(self) -> str:
        """The acting person's name in the audit list."""
        user = self.application.access.user(self.request.headers.get("Authorization", ""))
        if user is not None:
            return str(user.name)
        return self.current_user if isinstance(self.current_user, str) else "somebody on this machine"

    @web.authenticated
    async def get(self, *path: str) -> None:
        """Serve the page, or say that Redis does not answer."""
        read = self.reader(*path)
        try:
            shown = await self.in_thread(read)
        except RedisError as error:
            # The error's own text may hold a password.
            self.set_status(503)
            self.render("unavailable.html", error=type(error).__name__)
        else:
            self.render(self.template, shown=shown)

    def reader(self, *path: str) -> Callable[[], Any]:
        """The call, for another thread, that reads what is shown. Raises `HTTPError` for a wrong request."""
        raise NotImplementedError

    def parse_query(self, read: Callable[[dict[str, str]], T]) -> T:
        """Read the query of the request's address. Raises `HTTPError` for a wrong one."""
        try:
            return read({name: self.get_query_argument(name) for name in self.request.query_arguments})
        except ValueError as error:
            raise web.HTTPError(400, str(error)) from None

    async def in_thread(self, call: Callable[[], Any]) -> Any:
        """Run a call that waits for Redis, the broker or AWS, so that no other request waits with it."""
        return await IOLoop.current().run_in_executor(None, call)

    async def act(self, call: Callable[[], Any]) -> Any:
        """Run an operator's action. Raises `HTTPError` where Redis or the broker does not answer."""
        try:
            return await self.in_thread(call)
        except (RedisError, OperationalError) as error:
            raise web.HTTPError(503, f"{type(error).__name__}: try again") from None

    def write_error(self, status_code: int, **kwargs: Any) -> None:
        """Say on a page why a request is not served; Flower writes some reasons as bare text."""
        found = kwargs.get("exc_info", (None, None))[1]
        if isinstance(found, web.HTTPError) and status_code not in FLOWERS_ERRORS:
            reason = responses.get(status_code, "Not served")
            self.render("problem.html", reason=reason, message=found.get_message())
        else:
            super().write_error(status_code, **kwargs)

    def get_template_namespace(self) -> dict[str, Any]:
        """Names that every template of ours may use."""
        ours = {
            "advice": advice,
            "age": age,
            "amount": amount,
            "now": self.services.clock(),
            "seconds": quantile,
            "settings_of": asdict,
            "workers": self.application.live_workers,
            "badges": BADGES,
            "clock_time": clock_time,
            "count": count,
            "may_act": self.application.access.may_act(self.request.headers.get("Authorization", "")),
            "reason_label": reason_label,
            "section_of": section_of,
            "size": size,
            "refresh_seconds": REFRESH_SECONDS,
            "skip_labels": SKIP_LABELS,
            "states": list(AlertState),
            "types": list(AlertType),
            "utc": utc,
            "with_code": with_code,
        }
        return {**super().get_template_namespace(), **ours}
