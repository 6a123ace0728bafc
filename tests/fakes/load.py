"""Many numbered changes on their way into one stream, and what became of each.

load = Load(audience, records=1000)
load.send()
load.arrive()
assert (load.lost, load.repeated) == (0, 0)
"""

import re
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from random import Random
from uuid import NAMESPACE_OID, uuid5

from kombu.exceptions import OperationalError
from stack import Audience
from waiting import eventually

from devstack.firehose import Answer, Call
from worker.broker.redis.reservations import UNCOUNTED
from worker.queues import CHANGES_QUEUE
from worker.status import StreamStatus

CUSTOMER = re.compile(rb"customer-(\d+)")
ARRIVAL = 120.0
"""Seconds without a single arrival after which what is missing counts as lost."""
POLL_SECONDS = 0.1
NOISE_BYTES = 250
INSISTENCE = 60.0
"""Seconds for which a caller repeats what the broker has refused."""


@dataclass
class Load:
    """The changes of one audience: `records` customers join it, each once."""

    audience: Audience
    records: int
    per_message: int = 100
    sent: int = 0
    refusals: int = 0
    """How often the broker refused a message, with an error to the caller, which sent it again."""
    bulky: bool = False
    """Records that do not shrink when they are compressed."""
    refused_by: tuple[type[Exception], ...] = (OperationalError,)
    """The errors by which a caller learns that its message is not accepted, or perhaps not."""
    only_once: bool = False
    """A caller that takes no for an answer; what was refused was then never sent."""
    _counted: Counter[int] = field(default_factory=Counter, repr=False)

    def send(self, records: int | None = None) -> None:
        """Enqueue the next customers; all that are left where it is not said how many."""
        for number in range(self.sent, self.sent + (records or self.records - self.sent), self.per_message):
            customers = range(number, min(number + self.per_message, self.records))
            self._enqueue(customers)
            self.sent = customers.stop

    @contextmanager
    def sending(self, records: int | None = None) -> Iterator[None]:
        """Enqueue the next customers meanwhile, as a caller that sends again what it is not sure of."""
        caller = threading.Thread(target=self.send, args=(records,))
        caller.start()
        try:
            yield
        finally:
            caller.join()

    @contextmanager
    def holding_put(self, number: int) -> Iterator[Callable[[], None]]:
        """Hold the put that takes the `number`-th record that arrives from now on.

        Firehose takes its records, and answers it when the context ends: until then a batch is in flight.
        Yields a function that waits until the put is held.
        """
        firehose, stream = self.audience.stack.firehose, self.audience.stream
        target, held, go = self.arrived() + number, threading.Event(), threading.Event()

        def hold(call: Call) -> Answer | None:
            is_put = call.operation.startswith("Put") and call.stream_name == stream.name
            if held.is_set() or not is_put or self.arrived() + len(call.records) < target:
                return None
            held.set()
            return Answer(wait=go)

        def wait() -> None:
            assert held.wait(ARRIVAL), f"record {number} did not arrive"

        firehose.faults.append(hold)
        try:
            yield wait
        finally:
            go.set()
            firehose.faults.remove(hold)

    def arrived(self) -> int:
        """How many records have arrived, counting repeated ones."""
        return len(self._accepted())

    def largest_put(self) -> int:
        """The records of the largest call."""
        return max(self.audience.puts())

    def arrive(self, timeout: float = ARRIVAL) -> None:
        """Wait until everything that was sent has arrived, or nothing arrives any more."""
        seen, since = -1, time.monotonic()
        while self.lost:
            if self.arrived() != seen:
                seen, since = self.arrived(), time.monotonic()
            elif time.monotonic() - since > timeout:
                return
            time.sleep(POLL_SECONDS)

    @property
    def lost(self) -> int:
        """Records that were sent and have not arrived."""
        return self.sent - len(self._count())

    @property
    def repeated(self) -> int:
        """Records that arrived again."""
        return sum(self._count().values()) - len(self._counted)

    def status(self) -> StreamStatus:
        """The stream's row in `audience-firehose status`."""
        rows = self.audience.stack.services.status.read(lambda _: {}).rows
        return next(row for row in rows if row.stream == self.audience.stream)

    def settle(self) -> StreamStatus:
        """Wait until the broker holds no message, and nothing that is to be counted. Returns the counters."""
        eventually(self._is_broker_empty, timeout=ARRIVAL, what="the broker's emptiness")
        return self.status()

    def _is_broker_empty(self) -> bool:
        # Atomically: a message goes from a queue to `unacked`, and its batches into other queues.
        with self.audience.stack.broker_client().pipeline(transaction=True) as pipe:
            pipe.hlen("unacked").llen(CHANGES_QUEUE).llen(self.audience.stream.queue).hlen(UNCOUNTED)
            return not any(pipe.execute())

    def _enqueue(self, customers: range) -> None:
        changes = [self.audience.added_user(**self._identities(number)) for number in customers]
        # A caller that sends again what it is not sure of says so with the same ID.
        task_id = str(uuid5(NAMESPACE_OID, f"{self.audience.id}:{customers.start}"))
        for _ in self._tries():
            try:
                self.audience.stack.send(*changes, task_id=task_id)
            except self.refused_by:
                self.refusals += 1
                if self.only_once:
                    raise
            else:
                return
        raise AssertionError("the broker takes nothing any more")

    def _identities(self, number: int) -> dict[str, str]:
        customer = f"customer-{number:06}"
        return {"CustomerId": customer} | ({"Other": noise(number)} if self.bulky else {})

    def _tries(self) -> Iterator[None]:
        deadline = time.monotonic() + INSISTENCE
        while time.monotonic() < deadline:
            yield
            time.sleep(POLL_SECONDS)

    def _accepted(self) -> list[bytes]:
        stream = self.audience.stream
        return self.audience.stack.firehose.streams["*", stream.region, stream.name].accepted

    def _count(self) -> Counter[int]:
        counted = self._counted.total()
        accepted = self._accepted()[counted:]
        self._counted.update(int(found[1]) for line in accepted if (found := CUSTOMER.search(line)))
        return self._counted


def noise(seed: int) -> str:
    """Text that nothing compresses to less than half."""
    return Random(seed).randbytes(NOISE_BYTES).hex()
