"""The arguments of a delivery task: a batch in a message.

Made by the producer, checked by the delivery task, and kept in dead
letters. Their names and shapes are a contract with the messages in flight.
"""

from collections.abc import Mapping
from typing import Any

from worker.firehose.batching import Batch
from worker.firehose.groups import is_group, records_in
from worker.queues import Stream


def make_delivery(stream: Stream, batch: Batch) -> dict[str, Any]:
    """The arguments that deliver a batch."""
    return {
        "configuration": stream.configuration,
        "delivery_stream_name": stream.name,
        "records": batch.groups,
        "connection_ids": sorted(batch.connection_ids),
        "audience_ids": sorted(batch.audience_ids),
    }


def is_delivery(kwargs: Mapping[str, Any]) -> bool:
    """Whether these are the arguments of a delivery, as `make_delivery` makes them."""
    match kwargs:
        case {
            "configuration": str(),
            "delivery_stream_name": str(),
            "records": list(groups),
            "connection_ids": list(connections),
            "audience_ids": list(audiences),
        }:
            return (
                bool(groups)
                and all(map(is_group, groups))
                and all(isinstance(connection, str) for connection in connections)
                and all(isinstance(audience, int) for audience in audiences)
            )
    return False


def records_of(kwargs: Mapping[str, Any]) -> int:
    """How many records a delivery answers for, as counters count them."""
    return records_in(kwargs["records"])
