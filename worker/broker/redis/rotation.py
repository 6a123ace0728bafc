"""The queues that a worker polls, in turn: those that may hold messages, however many it consumes.

Streams' queues are many, and most are empty. A stream's queue is a candidate from when it is consumed,
named by the index or found by the sweep, until a poll finds it empty. Other queues are few, and anybody
pushes into them: they are candidates always.

Every second turn is that of the other queues, `audience.changes` first of all. So new changes do not wait
for a thousand streams, and where there is much to do the batches of a stream come to be delivered together.

A poll looks at a bounded number of queues, so it costs the same with one and with ten thousand streams.
"""

from collections import OrderedDict
from collections.abc import Callable, Collection
from itertools import chain, islice
from time import monotonic as monotonic_clock

from worker.broker.redis.poll import NO_ENTRY_SEEN, Answer, Poll
from worker.queues import is_stream_queue

RESERVING_QUEUES = 4
"""That a poll may reserve from. It ends at the first that holds a message, which most candidates do."""
SWEEPING_QUEUES = 100
"""That a poll asks of whether they are empty, where it sweeps."""
SWEEP_INTERVAL_SECONDS = 0.1
"""At least, between two polls that sweep: a thousand queues a second, for some 2 ms of Redis's time."""


class Rotation:
    """Chooses the queues of each poll, and learns from its answer."""

    def __init__(self, monotonic: Callable[[], float] = monotonic_clock) -> None:
        self._monotonic = monotonic
        self._consumed: dict[str, None] = {}
        self._candidates: OrderedDict[str, None] = OrderedDict()
        """Streams' queues in round-robin order."""
        self._others: OrderedDict[str, None] = OrderedDict()
        """The other queues, in the same order."""
        self._is_turn_of_streams = False
        self._streams: OrderedDict[str, None] = OrderedDict()
        """All consumed queues of streams, in the order in which they are swept."""
        self._swept_at = -SWEEP_INTERVAL_SECONDS
        self._last_entry = NO_ENTRY_SEEN

    @property
    def queues(self) -> Collection[str]:
        """All queues that are consumed."""
        return self._consumed.keys()

    @property
    def has_stream_candidates(self) -> bool:
        """Whether streams' queues may hold messages, so that the worker is to poll again at once."""
        return bool(self._candidates)

    def add(self, queue: str) -> None:
        """Consume a queue. It may hold messages."""
        self._consumed[queue] = None
        if is_stream_queue(queue):
            self._streams[queue] = self._candidates[queue] = None
        else:
            self._others[queue] = None

    def remove(self, queue: str) -> None:
        """Consume a queue no more."""
        for queues in (self._consumed, self._streams, self._candidates, self._others):
            queues.pop(queue, None)

    def next_poll(self) -> Poll:
        """The next queues in turn, and the next ones to sweep."""
        turns = (
            (self._candidates, self._others) if self._is_turn_of_streams else (self._others, self._candidates)
        )
        return Poll(
            list(islice(chain.from_iterable(turns), RESERVING_QUEUES)), self._sweep(), self._last_entry
        )

    def learn(self, answer: Answer) -> None:
        """Take over what a poll has found. A queue that was cancelled meanwhile stays out."""
        self._last_entry = answer.last_entry
        for queue in answer.non_empty:
            if queue in self._streams:
                self._candidates[queue] = None
        for queue in answer.empty:
            self._advance(queue, is_empty=True)
        if answer.reserved:
            self._advance(answer.reserved.queue, answer.reserved.is_last)
            self._is_turn_of_streams = answer.reserved.queue in self._others
        else:
            # The other queues may be more than a poll looks at.
            self._is_turn_of_streams = not self._is_turn_of_streams

    def _advance(self, queue: str, is_empty: bool) -> None:
        if queue in self._others:
            self._others.move_to_end(queue)
        elif is_empty:
            self._candidates.pop(queue, None)
        elif queue in self._candidates:
            self._candidates.move_to_end(queue)

    def _sweep(self) -> list[str]:
        now = self._monotonic()
        if now - self._swept_at < SWEEP_INTERVAL_SECONDS:
            return []
        self._swept_at = now
        swept = list(islice(self._streams, SWEEPING_QUEUES))
        for queue in swept:
            self._streams.move_to_end(queue)
        return [queue for queue in swept if queue not in self._candidates]
