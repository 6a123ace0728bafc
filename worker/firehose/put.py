"""Puts a batch with one PutRecordBatch, and says which groups remain to be sent.

If an IAM policy allows PutRecord and not PutRecordBatch, the records go one a call.
"""

import time
from collections.abc import Callable, Sequence
from itertools import chain, compress, islice
from typing import TYPE_CHECKING, NamedTuple

from worker.failures.alert_types import Failure
from worker.firehose.answers import refusal_code, refusal_codes, request_id
from worker.firehose.errors import FIREHOSE_ERRORS, classify, of_code
from worker.firehose.groups import Group, billed_bytes, firehose_records, records_in, remaining_after, size_of
from worker.firehose.lean_calls import put_data
from worker.privacy import without_content

if TYPE_CHECKING:
    from mypy_boto3_firehose.client import FirehoseClient


SINGLY_SECONDS = 20.0
"""The time that a batch may take record by record; what is left then is tried later. Together with the
last call it stays below the lease of a delivery."""
TIME_IS_UP = "TimeLimit"
"""A code of our own, for the records that were not sent in that time."""
PARSER_ERRORS = (AttributeError, KeyError, TypeError, ValueError)
"""botocore's parser met JSON that is no object, or whose members have other types."""


class Billing(NamedTuple):
    """The bytes that AWS bills for accepted Firehose records."""

    billed_bytes: int = 0
    saved_bytes: int = 0
    """The further bytes that it would bill if each line were a Firehose record of its own."""


class Outcome(NamedTuple):
    """Firehose's answer to a batch."""

    accepted: int
    """Records that Firehose has and that are not sent again."""
    refused: int
    """Records."""
    remaining: list[Group]
    """To send again, in this order: the refused records, and those after them in their group."""
    failure: Failure | None
    """The first refusal; None where there was none."""
    billing: Billing = Billing()
    size: int = 0
    """The bytes of the records that are not sent again, before base64."""
    request_id: str | None = None
    """AWS's ID of the call; None where there were several, or it is not known."""

    def __repr__(self) -> str:
        return without_content(self, "accepted", "refused", "failure", "request_id")

    @property
    def is_mostly_refused(self) -> bool:
        """Whether the stream's circuit breaker should open."""
        return self.refused > self.accepted


def put(client: "FirehoseClient", delivery_stream_name: str, groups: Sequence[Group]) -> Outcome:
    """Send the groups, of which there are at most 500 Firehose records. Raises botocore's errors."""
    return put_together(client, delivery_stream_name, [groups])[0]


def put_together(
    client: "FirehoseClient", delivery_stream_name: str, batches: Sequence[Sequence[Group]]
) -> list[Outcome]:
    """Send batches in one call, and return the outcome of each. Raises botocore's errors.

    They have at most 500 Firehose records together.
    """
    data = [[record.encode() for record in firehose_records(groups)] for groups in batches]
    together = list(chain.from_iterable(data))
    answer = put_record_batch(client, delivery_stream_name, together)
    codes, identifier = iter(refusal_codes(answer, len(together))), request_id(answer)
    outcomes = []
    for groups, own in zip(batches, data, strict=True):
        outcome = _outcome(groups, own, list(islice(codes, len(own))))
        failure = outcome.failure._replace(request_id=identifier) if outcome.failure else None
        outcomes.append(outcome._replace(failure=failure, request_id=identifier))
    return outcomes


def billing_of(data: Sequence[bytes]) -> Billing:
    """Compute what AWS bills for these Firehose records."""
    return _billing(data, _shared(data))


def put_record_batch(client: "FirehoseClient", delivery_stream_name: str, data: Sequence[bytes]) -> object:
    """Send the records in one call. Returns the answer as botocore reads it; None where it cannot."""
    try:
        return put_data(client, delivery_stream_name, data)
    except PARSER_ERRORS:
        return None


def put_record(client: "FirehoseClient", delivery_stream_name: str, record: bytes) -> str:
    """Send one record. Returns its `refusal_code`."""
    answer: object
    try:
        answer = client.put_record(DeliveryStreamName=delivery_stream_name, Record={"Data": record})
    except PARSER_ERRORS:
        answer = None
    return refusal_code(answer)


def put_singly(
    client: "FirehoseClient",
    delivery_stream_name: str,
    groups: Sequence[Group],
    monotonic: Callable[[], float] = time.monotonic,
) -> Outcome:
    """Send the groups with one PutRecord for each Firehose record, until one of them is refused.

    Raises botocore's errors where the first record meets one.
    """
    data = [record.encode() for record in firehose_records(groups)]
    ends_at = monotonic() + SINGLY_SECONDS
    accepted, code = 0, TIME_IS_UP
    for record in data:
        if accepted and monotonic() >= ends_at:
            break
        try:
            refusal = put_record(client, delivery_stream_name, record)
        except FIREHOSE_ERRORS as error:
            if not accepted:
                raise
            refusal = classify(error).failure.error_code
        if refusal:
            code = refusal
            break
        accepted += 1
    outcome = _outcome(groups, data, [""] * accepted + [code] * (len(data) - accepted))
    # Those behind it were not sent.
    refused = 0 if code == TIME_IS_UP else records_in(firehose_records(groups)[accepted : accepted + 1])
    return outcome._replace(refused=refused)


def _outcome(groups: Sequence[Group], data: Sequence[bytes], codes: Sequence[str]) -> Outcome:
    """The outcome of a call. `codes` holds a refusal's code, or "", for each record of `data`."""
    if not any(codes):
        shared = _shared(data)
        lines = len(data) + sum(record.count(b"\n") - 1 for record in shared)
        return Outcome(lines, 0, [], None, _billing(data, shared), sum(map(len, data)))
    remaining = remaining_after(groups, [bool(code) for code in codes])
    # A refused record is always worth another try: what is wrong for good refuses the whole call.
    failure = of_code(next(filter(None, codes)), status=500).failure
    # What was accepted after a refused record of its group counts once it is sent again.
    return Outcome(
        accepted=records_in(groups) - records_in(remaining),
        refused=records_in(compress(firehose_records(groups), codes)),
        remaining=remaining,
        failure=failure,
        billing=billing_of([record for record, code in zip(data, codes, strict=True) if not code]),
        size=sum(map(len, data)) - size_of(remaining).bytes,
    )


def _shared(data: Sequence[bytes]) -> list[bytes]:
    """The Firehose records that several lines share."""
    # To find a newline before the last character costs a third of counting.
    return [r for r in data if r.find(b"\n", 0, -1) >= 0 and r.count(b"\n") > 1]


def _billing(data: Sequence[bytes], shared: Sequence[bytes]) -> Billing:
    alone = billed_bytes(len(line) for record in shared for line in record.splitlines(keepends=True))
    return Billing(billed_bytes(map(len, data)), alone - billed_bytes(map(len, shared)))
