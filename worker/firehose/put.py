"""Puts a batch with one PutRecordBatch, and says which groups remain to be sent."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from worker.failures.alert_types import Failure
from worker.firehose.answers import refusal_codes
from worker.firehose.batching import Group, records_in
from worker.firehose.errors import of_code

if TYPE_CHECKING:
    from mypy_boto3_firehose.client import FirehoseClient


class Outcome(NamedTuple):
    """Firehose's answer to a batch."""

    accepted: int
    """Records that Firehose has and that are not sent again."""
    refused: int
    """Records."""
    remaining: list[Group]
    """Groups to send again, in their order: no record beyond the refused ones, except that a refused
    removal takes its addition with it."""
    failure: Failure | None
    """The first refusal; None where there was none."""

    @property
    def is_mostly_refused(self) -> bool:
        """Whether the stream's circuit breaker should open."""
        return self.refused > self.accepted


def put(client: "FirehoseClient", delivery_stream_name: str, groups: Sequence[Group]) -> Outcome:
    """Send the groups' records, of which there are at most 500. Raises botocore's errors."""
    data = [line.encode() for line in _lines(groups)]
    return _outcome(groups, put_record_batch(client, delivery_stream_name, data))


def put_record_batch(client: "FirehoseClient", delivery_stream_name: str, data: Sequence[bytes]) -> list[str]:
    """Send the records in one call. Returns `refusal_codes`."""
    answer: object
    try:
        answer = client.put_record_batch(
            DeliveryStreamName=delivery_stream_name, Records=[{"Data": record} for record in data]
        )
    except (AttributeError, KeyError, TypeError, ValueError):
        # botocore's parser met JSON that is no object, or whose members have other types.
        answer = None
    return refusal_codes(answer, len(data))


def _lines(groups: Sequence[Group]) -> list[str]:
    lines: list[str] = []
    for group in groups:
        if isinstance(group, str):
            lines.append(group)
        else:
            lines.extend(group)
    return lines


def _outcome(groups: Sequence[Group], codes: Sequence[str]) -> Outcome:
    """What remains of the groups, of whose records `codes` holds the refusals."""
    refused = [code for code in codes if code]
    if not refused:
        return Outcome(len(codes), 0, [], None)
    remaining = _remaining(groups, codes)
    # A refused record is always worth another try: what is wrong for good refuses the whole call.
    failure = of_code(refused[0], status=500).failure
    # An addition that was accepted counts once it is sent again, after its refused removal.
    return Outcome(len(codes) - records_in(remaining), len(refused), remaining, failure)


def _remaining(groups: Sequence[Group], codes: Sequence[str]) -> list[Group]:
    remaining: list[Group] = []
    position = 0
    for group in groups:
        width = 1 if isinstance(group, str) else len(group)
        refused = codes[position : position + width]
        position += width
        if refused[0]:
            remaining.append(group)
        elif any(refused):
            remaining.append(group[1])
    return remaining
