"""The message of a run of a stream's deliveries.

A worker reserves several delivery messages of a stream together where their batches can share calls of
Firehose. Each stays recorded as unacknowledged under its own tag, and its body stays in the broker. The task
ends them.
"""

from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Any, NamedTuple

from worker.broker.redis.runs import RUN_PREFIX, message_of_run
from worker.broker.runs import run_call
from worker.queues import BYTES_HEADER, RECORDS_HEADER, stream_of

CALLS = "audience_calls"
"""The only argument of such a run: by call of Firehose, the delivery tags of its messages."""
CALLS_OF_A_RUN = 4
"""At most: the further batches of a stream that turns out to fail wait for a process meanwhile."""


class DeliveryLimit(NamedTuple):
    """How much a run may hold, its first message apart."""

    calls: int
    records: int
    """Firehose records."""
    bytes: int
    """Before base64."""


NO_RUN = DeliveryLimit(calls=1, records=0, bytes=0)


class ReservedDelivery(NamedTuple):
    """A delivery message in a run, as the main process knows it."""

    tag: str
    call: int
    """The number of the call of Firehose that its batch is for."""
    records: int
    bytes: int


def make_delivery_run(deliveries: Sequence[ReservedDelivery], queue: str) -> dict[str, Any]:
    """The message of a run, as kombu's channel delivers it: a call of the stream's delivery task."""
    calls = [[each.tag for each in call] for _, call in groupby(deliveries, lambda each: each.call)]
    cost = {
        RECORDS_HEADER: sum(each.records for each in deliveries),
        BYTES_HEADER: sum(each.bytes for each in deliveries),
    }
    return message_of_run(queue, run_call([], {CALLS: calls}, task=stream_of(queue).task, headers=cost))


def calls_of_run(kwargs: Mapping[str, Any], tag: object) -> list[list[str]] | None:
    """The delivery tags of a run's messages, by call of Firehose; None for any other message."""
    calls = kwargs.get(CALLS)
    is_run = len(kwargs) == 1 and isinstance(calls, list) and str(tag).startswith(RUN_PREFIX)
    return calls if is_run else None
