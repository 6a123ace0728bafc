"""One PutRecordBatch, and what remains of the batch afterwards."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from worker.failures.alert_types import Failure
from worker.firehose.batching import Group, records_in
from worker.firehose.errors import of_code

if TYPE_CHECKING:
    from mypy_boto3_firehose.client import FirehoseClient
    from mypy_boto3_firehose.type_defs import PutRecordBatchResponseEntryTypeDef

MALFORMED_RESPONSE = "MalformedResponse"
"""Our own code: an answer that does not say of each record what became of it."""


class Outcome(NamedTuple):
    """What Firehose said to a batch."""

    accepted: int
    """Records that are done with."""
    refused: int
    """Records."""
    remaining: list[Group]
    """What is to be sent again, in its order: not a record more than was refused, but for a
    removal and its addition, where a refused removal has both sent again."""
    failure: Failure | None
    """Why, where anything was refused."""

    @property
    def is_mostly_refused(self) -> bool:
        """Whether the stream had better be left alone for a while."""
        return self.refused > self.accepted


def put(client: "FirehoseClient", delivery_stream_name: str, groups: Sequence[Group]) -> Outcome:
    """Send the groups' records, of which there are at most 500. Raises botocore's errors."""
    lines = _lines(groups)
    response = client.put_record_batch(
        DeliveryStreamName=delivery_stream_name, Records=[{"Data": line.encode()} for line in lines]
    )
    if response.get("FailedPutCount") == 0:
        return Outcome(len(lines), 0, [], None)
    answers = response.get("RequestResponses", [])
    if len(answers) != len(lines) or not any("ErrorCode" in answer for answer in answers):
        failure = of_code(MALFORMED_RESPONSE, status=500).failure
        return Outcome(0, len(lines), list(groups), failure)
    return _partial(groups, answers)


def _lines(groups: Sequence[Group]) -> list[str]:
    lines: list[str] = []
    for group in groups:
        if isinstance(group, str):
            lines.append(group)
        else:
            lines.extend(group)
    return lines


def _partial(groups: Sequence[Group], answers: "Sequence[PutRecordBatchResponseEntryTypeDef]") -> Outcome:
    remaining: list[Group] = []
    position = 0
    for group in groups:
        width = 1 if isinstance(group, str) else len(group)
        refused = ["ErrorCode" in answer for answer in answers[position : position + width]]
        position += width
        if refused[0]:
            remaining.append(group)
        elif any(refused):
            remaining.append(group[1])
    codes = [answer["ErrorCode"] for answer in answers if "ErrorCode" in answer]
    # A refused record is always worth another try: what is wrong for good refuses the whole call.
    failure = of_code(codes[0], status=500).failure
    # An addition that was accepted counts once it is sent again, after its refused removal.
    return Outcome(len(answers) - records_in(remaining), len(codes), remaining, failure)
