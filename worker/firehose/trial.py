"""Puts one marked test record into a stream, as a delivery would. `test --send-record` asks for it."""

import json
from typing import TYPE_CHECKING

from botocore.exceptions import ClientError

from schemas.settings import Configuration
from worker.failures.alert_types import AlertType, Failure, HealthCheck
from worker.firehose.clients import Clients
from worker.firehose.errors import FIREHOSE_ERRORS, classify
from worker.firehose.groups import Group
from worker.firehose.health import Check
from worker.firehose.put import Outcome, put, put_singly
from worker.queues import Stream

if TYPE_CHECKING:
    from mypy_boto3_firehose.client import FirehoseClient

AUDIENCE_NAME = "audience-firehose test"
BY_BATCH = "one test record was accepted"
BY_ITSELF = (
    "one test record was accepted by PutRecord; PutRecordBatch is denied, so delivery is slow: attach what"
    " `audience-firehose policy` prints"
)


def make_trial_record(audience_id: int, timestamp: int, *, append_newline: bool) -> str:
    """A record of nobody, which a consumer can parse and tell by its IsTest. `timestamp`: Unix seconds."""
    record = {
        "MembershipChangedTimestamp": str(timestamp),
        "AudienceId": audience_id,
        "AudienceName": AUDIENCE_NAME,
        "IsMember": False,
        "UserIdentities": {},
        "IsTest": True,
    }
    return json.dumps(record, separators=(",", ":")) + ("\n" if append_newline else "")


def send_trial_record(clients: Clients, configuration: Configuration, stream: Stream, record: str) -> Check:
    """Put the record, and say whether Firehose has accepted it."""
    try:
        outcome, how = _put(clients.get(configuration, stream.region), stream.name, [record])
    except FIREHOSE_ERRORS as error:
        return _refused(classify(error).failure)
    return _refused(outcome.failure) if outcome.failure else Check(HealthCheck.RECORD, True, how)


def _put(client: "FirehoseClient", delivery_stream_name: str, groups: list[Group]) -> tuple[Outcome, str]:
    try:
        return put(client, delivery_stream_name, groups), BY_BATCH
    except ClientError as error:
        if classify(error).failure.alert_type is not AlertType.ACCESS_DENIED:
            raise
    return put_singly(client, delivery_stream_name, groups), BY_ITSELF


def _refused(failure: Failure) -> Check:
    said = f" ({failure.aws_message})" if failure.aws_message else ""
    return Check(HealthCheck.RECORD, False, f"{failure.error_code}: {failure.message}{said}")
