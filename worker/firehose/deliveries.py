"""The arguments of a delivery task: a batch in a message, and the batches that may only follow it.

Made by the producer, checked by the delivery task, and kept in dead
letters. Their names and shapes are a contract with the messages in flight.
"""

from collections.abc import Mapping
from typing import Any

from worker.firehose.batching import Chain
from worker.firehose.groups import are_groups, records_in
from worker.queues import Stream


def make_delivery(stream: Stream, chain: Chain, connection_ids: Mapping[int, str]) -> dict[str, Any]:
    """The arguments that deliver a chain of batches, of which there is at least one.

    `connection_ids` are the connections that lead to the stream, by their audiences.
    """
    audience_ids = sorted(set().union(*(batch.audience_ids for batch in chain)))
    kwargs: dict[str, Any] = {
        "configuration": stream.configuration,
        "delivery_stream_name": stream.name,
        "records": chain[0].groups,
        "connection_ids": sorted(connection_ids[audience_id] for audience_id in audience_ids),
        "audience_ids": audience_ids,
    }
    if len(chain) > 1:
        kwargs["then"] = [batch.groups for batch in chain[1:]]
    return kwargs


def is_delivery(kwargs: Mapping[str, Any]) -> bool:
    """Whether these are the arguments of a delivery, as `make_delivery` makes them."""
    match kwargs:
        case {
            "configuration": str(),
            "delivery_stream_name": str(),
            "records": groups,
            "connection_ids": list(connections),
            "audience_ids": list(audiences),
        }:
            return (
                _are_batches([groups])
                and _are_batches(kwargs.get("then", []))
                and all(isinstance(connection, str) for connection in connections)
                and all(isinstance(audience, int) for audience in audiences)
            )
    return False


def following_delivery(kwargs: Mapping[str, Any]) -> dict[str, Any] | None:
    """The arguments that deliver the rest of a chain; None where this was its last batch."""
    match kwargs.get("then"):
        case [groups]:
            return {name: value for name, value in kwargs.items() if name != "then"} | {"records": groups}
        case [groups, *later]:
            return {**kwargs, "records": groups, "then": later}
    return None


def records_of(kwargs: Mapping[str, Any]) -> int:
    """How many records a delivery answers for, its whole chain's, as counters count them."""
    return sum(map(records_in, [kwargs["records"], *kwargs.get("then", [])]))


def _are_batches(batches: Any) -> bool:
    return isinstance(batches, list) and all(
        isinstance(groups, list) and groups and are_groups(groups) for groups in batches
    )
