"""The states of a worker's streams as log lines: one when a state changes, and none at a probe."""

import logging
from collections import Counter
from collections.abc import Mapping

from worker.flow.circuit_breakers import CircuitBreaker
from worker.logs.fields import log_fields
from worker.status import StreamState

logger = logging.getLogger(__name__)


class StreamStates:
    """Remembers the states that were logged."""

    def __init__(self) -> None:
        self._states: dict[str, StreamState] | None = None

    def update(self, queues: set[str], breakers: Mapping[str, CircuitBreaker]) -> None:
        """Log the states that differ from those of the last call. `breakers`, by queue, are not CLOSED.

        The first call logs one line for all streams, and a line for each that does not flow.
        """
        states = {queue: state_of(breakers.get(queue)) for queue in queues}
        known = self._states
        if known is None:
            _log_all(states)
            known = dict.fromkeys(queues, StreamState.FLOWING)
        for queue in sorted(states.keys() | known.keys()):
            state = states.get(queue, StreamState.NOT_CONNECTED)
            if state is not known.get(queue):
                breaker = breakers.get(queue) if queue in states else None
                reason = f" ({breaker.reason})" if breaker else ""
                logger.info("%s: %s%s", queue, state, reason, extra=log_fields(stream=queue))
        self._states = states


def state_of(breaker: CircuitBreaker | None) -> StreamState:
    """The state of a connected stream. OPEN and HALF_OPEN are one state: a probe does not change it."""
    if breaker is None:
        return StreamState.FLOWING
    return StreamState.PAUSED if breaker.is_paused else StreamState.FAILING


def _log_all(states: Mapping[str, StreamState]) -> None:
    counts = Counter(states.values())
    summary = ", ".join(f"{counts[state]} {state}" for state in StreamState if counts[state])
    logger.info("streams: %s", summary or "none connected")
