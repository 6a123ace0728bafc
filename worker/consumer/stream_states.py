"""The states of a worker's streams as log lines: one when a state changes, and none at a probe."""

import logging
from collections import Counter
from collections.abc import Mapping
from collections.abc import Set as AbstractSet

from worker.flow.circuit_breakers import CircuitBreaker
from worker.logs.fields import log_fields
from worker.status import StreamState

logger = logging.getLogger(__name__)


class StreamStates:
    """Remembers the states that were logged."""

    def __init__(self) -> None:
        self._queues: AbstractSet[str] | None = None
        self._not_flowing: dict[str, CircuitBreaker] = {}

    def update(self, queues: AbstractSet[str], breakers: Mapping[str, CircuitBreaker]) -> None:
        """Log the states that differ from those of the last call. `breakers`, by queue, are not CLOSED.

        The first call logs one line for all streams, and a line for each that does not flow. The work is that
        of the breakers, and that of all queues only where they are another set than the last time.
        """
        not_flowing = {queue: breaker for queue, breaker in breakers.items() if queue in queues}
        before = self._queues
        if before is None:
            _log_all(queues, not_flowing)
            before = queues
        changed = set() if queues is before else set(queues ^ before)
        for queue in sorted(changed | not_flowing.keys() | self._not_flowing.keys()):
            known = _state_in(queue, before, self._not_flowing)
            state = _state_in(queue, queues, not_flowing)
            if state is not known:
                breaker = not_flowing.get(queue)
                reason = f" ({breaker.reason})" if breaker else ""
                logger.info("%s: %s%s", queue, state, reason, extra=log_fields(stream=queue))
        self._queues, self._not_flowing = queues, not_flowing


def _state_in(queue: str, queues: AbstractSet[str], not_flowing: Mapping[str, CircuitBreaker]) -> StreamState:
    return state_of(not_flowing.get(queue)) if queue in queues else StreamState.NOT_CONNECTED


def state_of(breaker: CircuitBreaker | None) -> StreamState:
    """The state of a connected stream. OPEN and HALF_OPEN are one state: a probe does not change it."""
    if breaker is None:
        return StreamState.FLOWING
    return StreamState.PAUSED if breaker.is_paused else StreamState.FAILING


def _log_all(queues: AbstractSet[str], not_flowing: Mapping[str, CircuitBreaker]) -> None:
    counts = Counter(map(state_of, not_flowing.values()))
    counts[StreamState.FLOWING] = len(queues) - len(not_flowing)
    summary = ", ".join(f"{counts[state]} {state}" for state in StreamState if counts[state])
    logger.info("streams: %s", summary or "none connected")
