"""Words and numbers as the pages show them."""

from schemas.records import Skip
from worker.flow.circuit_breakers import OPERATOR, CircuitBreaker

MINUTE, HOUR, DAY = 60, 3_600, 86_400
"""Seconds."""

SKIP_LABELS = {
    Skip.NO_CONNECTION: "without a connection",
    Skip.ANONYMOUS: "anonymous users",
    Skip.NO_IDENTITIES: "no identities left",
    Skip.ATTRIBUTE_UPDATE: "attribute updates",
    Skip.UNNAMED_IDENTITY: "unnamed identities",
    Skip.FURTHER_VALUE: "further values of an identity",
    Skip.REPEATED: "repeated",
    Skip.SUBSCRIPTION: "subscriptions",
}


def reason_label(breaker: CircuitBreaker) -> str:
    """Why a stream is closed."""
    return "paused by an operator" if breaker.reason == OPERATOR else breaker.reason


def count(number: int | None) -> str:
    """A number as people read it; a dash where it is not known."""
    return "\N{EM DASH}" if number is None else f"{number:,}"


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
