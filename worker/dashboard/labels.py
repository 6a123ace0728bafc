"""Words and numbers as the pages show them."""

import re
from datetime import UTC, datetime
from math import isinf

from tornado.escape import xhtml_escape

from schemas.records import Skip
from worker.failures.alert_types import AlertType, Severity
from worker.failures.alerts import AlertState
from worker.flow.circuit_breakers import OPERATOR, CircuitBreaker
from worker.status import StreamState

LEAST = 0.1
"""Records a second, below which a rate is shown as less than that."""
FEW = 10
"""Records a second, below which a rate is shown with a decimal."""
MINUTE, HOUR, DAY = 60, 3_600, 86_400
"""Seconds."""
KIBI = 1024
SIZE_UNITS = ("B", "KiB", "MiB", "GiB", "TiB")
HUNDRED = 100

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

SKIP_LABELS = {
    Skip.NO_CONNECTION: "without a connection",
    Skip.ANONYMOUS: "anonymous",
    Skip.NO_IDENTITIES: "without identities",
    Skip.UNCHANGED: "unchanged",
    Skip.ATTRIBUTE_UPDATE: "of attribute updates",
    Skip.UNNAMED_IDENTITY: "of unnamed identities",
    Skip.FURTHER_VALUE: "of further values",
    Skip.REPEATED: "repeated",
    Skip.SUBSCRIPTION: "of subscriptions",
}
"""Behind any number, 1 included."""


def reason_label(breaker: CircuitBreaker) -> str:
    """Why a stream does not flow."""
    return "paused by an operator" if breaker.reason == OPERATOR else breaker.reason


def advice(reason: str) -> str:
    """The next step of an alert of this type, as a sentence; empty where the reason is no type of alert."""
    found = AlertType.named(reason)
    return f"{found.advice[:1].upper()}{found.advice[1:]}." if found else ""


def section_of(alert_type: str) -> str:
    """The anchor of a type's section on the page that explains the types."""
    return re.sub(r"[^a-z0-9]+", "-", alert_type.lower()).strip("-")


def with_code(text: str) -> str:
    """Markup of a text whose code is in backticks."""
    return re.sub("`([^`]+)`", r'<code class="text-break">\1</code>', xhtml_escape(text))


def count(number: int | None) -> str:
    """A number as people read it; a dash where it is not known."""
    return "\N{EM DASH}" if number is None else f"{number:,}"


def amount(number: int, noun: str) -> str:
    """`1 record`, `1,000 records`."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def size(octets: int) -> str:
    """A number of bytes as people read it, with three digits."""
    number, units = float(octets), iter(SIZE_UNITS)
    unit = next(units)
    while number >= KIBI and unit != SIZE_UNITS[-1]:
        number, unit = number / KIBI, next(units)
    return f"{number:,.0f} {unit}" if number >= HUNDRED or unit == SIZE_UNITS[0] else f"{number:.3g} {unit}"


def age(seconds: float | None) -> str:
    """A time span in its two largest units, as people read it; a dash where it is not known."""
    if seconds is None:
        return "\N{EM DASH}"
    whole = int(seconds)
    if whole < MINUTE:
        return f"{whole} s"
    if whole < HOUR:
        return f"{whole // MINUTE} min {whole % MINUTE} s"
    if whole < DAY:
        return f"{whole // HOUR} h {whole % HOUR // MINUTE} min"
    return f"{whole // DAY} d {whole % DAY // HOUR} h"


def rate(per_second: float) -> str:
    """Records a second, with a digit more where there are few."""
    if 0 < per_second < LEAST:
        return f"<{LEAST}"
    has_few = 0 < per_second < FEW
    return f"{per_second:.1f}" if has_few else f"{per_second:,.0f}"


def utc(moment: str) -> str:
    """A time of the state (ISO 8601) as people read it, in UTC."""
    return datetime.fromisoformat(moment).astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S")


def clock_time(seconds: float) -> str:
    """Unix seconds as a time of day, in UTC."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%H:%M:%S")


def quantile(seconds: float | None) -> str:
    """A quantile, which is the upper bound of a bucket; a dash where nothing was counted."""
    if seconds is None:
        return "\N{EM DASH}"
    if isinf(seconds):
        return "over 2 h"
    return f"{seconds * 1000:.0f} ms" if seconds < 1 else age(seconds)
