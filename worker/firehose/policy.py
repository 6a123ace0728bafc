"""The IAM policy that a stream's AWS identity needs, and nothing beyond it. Pure."""

from typing import Any

from worker.firehose.regions import partition
from worker.queues import Stream

FIREHOSE_ACTIONS = ["firehose:PutRecordBatch", "firehose:DescribeDeliveryStream"]
"""Delivery needs the first, `test` the second, and nothing here any other."""
KEY_ACTIONS = ["kms:GenerateDataKey", "kms:Decrypt"]
"""The actions of a caller that puts records into a stream that is encrypted with a customer-managed key.
Source: AWS's notice, for new streams from 2026-04-20 and for all from 2027-02-28."""


def policy_for(stream: Stream, account_id: str, key_arn: str | None = None) -> dict[str, Any]:
    """The least that must be allowed. `key_arn` names the customer-managed key of an encrypted stream."""
    resource = f"{stream.region}:{account_id}:deliverystream/{stream.name}"
    statements = [_allow(FIREHOSE_ACTIONS, f"arn:{partition(stream.region)}:firehose:{resource}")]
    if key_arn:
        statements.append(_allow(KEY_ACTIONS, key_arn))
    return {"Version": "2012-10-17", "Statement": statements}


def _allow(actions: list[str], resource: str) -> dict[str, Any]:
    return {"Effect": "Allow", "Action": actions, "Resource": resource}
