"""Remembers streams whose policy allows PutRecord and not PutRecordBatch."""

import time
from collections.abc import Callable

from worker.queues import Stream

REMEMBERED_SECONDS = 600.0
"""Then PutRecordBatch is tried again: the policy may have been completed."""


class PutRecordOnly:
    """The streams of this process that take records by PutRecord alone, as far as is known."""

    def __init__(self, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._monotonic = monotonic
        self._until: dict[Stream, float] = {}

    def add(self, stream: Stream) -> None:
        """Remember a stream for a while."""
        self._until[stream] = self._monotonic() + REMEMBERED_SECONDS

    def discard(self, stream: Stream) -> None:
        """Forget a stream that does not take PutRecord any more."""
        self._until.pop(stream, None)

    def __contains__(self, stream: Stream) -> bool:
        return self._until.get(stream, 0.0) > self._monotonic()
