"""What the Streams page calls things."""

from schemas.records import Skip
from worker.state.gates import OPERATOR, Gate

SKIP_LABELS = {
    Skip.NO_CONNECTION: "without a connection",
    Skip.ANONYMOUS: "anonymous users",
    Skip.NO_IDENTITIES: "no identities left",
    Skip.ATTRIBUTE_UPDATE: "attribute updates",
    Skip.UNNAMED_IDENTITY: "unnamed identities",
}


def pause_label(gate: Gate) -> str:
    """Why a stream is closed."""
    return "paused by an operator" if gate.reason == OPERATOR else gate.reason
