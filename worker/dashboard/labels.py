"""What the Streams page calls things."""

from schemas.records import Skip
from worker.flow.circuit_breakers import OPERATOR, CircuitBreaker

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
