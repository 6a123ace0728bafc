"""Puts a batch with one PutRecordBatch, and says which groups remain to be sent."""

from collections.abc import Sequence
from itertools import compress
from typing import TYPE_CHECKING, NamedTuple

from worker.failures.alert_types import Failure
from worker.firehose.answers import refusal_codes
from worker.firehose.errors import of_code
from worker.firehose.groups import Group, firehose_records, records_in, remaining_after

if TYPE_CHECKING:
    from mypy_boto3_firehose.client import FirehoseClient


class Outcome(NamedTuple):
    """Firehose's answer to a batch."""

    accepted: int
    """Records that Firehose has and that are not sent again."""
    refused: int
    """Records."""
    remaining: list[Group]
    """What is to be sent again, in its order: what was refused, and what stands after it in its group."""
    failure: Failure | None
    """The first refusal; None where there was none."""

    @property
    def is_mostly_refused(self) -> bool:
        """Whether the stream's circuit breaker should open."""
        return self.refused > self.accepted


def put(client: "FirehoseClient", delivery_stream_name: str, groups: Sequence[Group]) -> Outcome:
    """Send the groups, of which there are at most 500 Firehose records. Raises botocore's errors."""
    data = [record.encode() for record in firehose_records(groups)]
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


def _outcome(groups: Sequence[Group], codes: Sequence[str]) -> Outcome:
    """What remains of the groups. `codes` holds a refusal's code, or "", for each Firehose record."""
    if not any(codes):
        return Outcome(records_in(groups), 0, [], None)
    remaining = remaining_after(groups, [bool(code) for code in codes])
    # A refused record is always worth another try: what is wrong for good refuses the whole call.
    failure = of_code(next(filter(None, codes)), status=500).failure
    # What was accepted after a refused record of its group counts once it is sent again.
    return Outcome(
        accepted=records_in(groups) - records_in(remaining),
        refused=records_in(compress(firehose_records(groups), codes)),
        remaining=remaining,
        failure=failure,
    )
