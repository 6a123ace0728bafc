"""The obvious solution: a plain Celery task per change, or per 500."""

import json
import os
from functools import cache
from typing import Any

import boto3
from celery import Celery

from benchmarks.changes import BATCH, change
from benchmarks.messages import PUT_RECORD

QUEUE = "plain"
PUT_RECORD_BATCH = "plain.put_record_batch"
STREAM = "benchmark"
WARM_RECORDS = 20 * BATCH
"""Records that a bare loop sends before it is measured."""

app = Celery("plain", broker=os.environ.get("CELERY_BROKER_URL"))
app.conf.update(task_default_queue=QUEUE, task_ignore_result=True)


@cache
def client() -> Any:
    """Make the client of a process, as boto3 does by default."""
    return boto3.client("firehose", region_name="us-east-1")


def record(change: dict[str, Any]) -> dict[str, bytes]:
    """A change as a Firehose record, unchecked."""
    content = {
        "MembershipChangedTimestamp": str(change["timestamp"]),
        "AudienceId": change["audience_id"],
        "AudienceName": change["audience_external_name"],
        "IsMember": change["type"] == "member_added",
        "UserIdentities": change["user_identities"],
    }
    return {"Data": json.dumps(content, separators=(",", ":")).encode() + b"\n"}


@app.task(name=PUT_RECORD)
def put_record(change: dict[str, Any]) -> None:
    client().put_record(DeliveryStreamName=STREAM, Record=record(change))


@app.task(name=PUT_RECORD_BATCH)
def put_record_batch(changes: list[dict[str, Any]]) -> None:
    client().put_record_batch(DeliveryStreamName=STREAM, Records=[record(change) for change in changes])


def bare_loop(records: int) -> None:
    """No Celery: ready bytes, as fast as boto3 takes them."""
    batch = [record(change(number)) for number in range(BATCH)]
    for _ in range(records // BATCH):
        client().put_record_batch(DeliveryStreamName=STREAM, Records=batch)
