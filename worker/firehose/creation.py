"""A stream that is being created is not found either, but will be in a minute."""

from typing import TYPE_CHECKING

from worker.failures.alert_types import AlertType, Failure
from worker.firehose.errors import FIREHOSE_ERRORS, Classification, classify

if TYPE_CHECKING:
    from mypy_boto3_firehose.client import FirehoseClient

CREATING = Classification(
    Failure(
        AlertType.INTERNAL_SERVER_ERROR,
        "ResourceNotFoundException",
        "the stream is still being created; delivery is tried again with growing pauses",
    ),
    transient=True,
)


def reclassify_missing(
    found: Classification, client: "FirehoseClient", delivery_stream_name: str
) -> Classification:
    """What was found of a stream that Firehose did not find, once it has been asked about it.

    The verdict stays where Firehose will not say. Where it cannot say just now, another try
    asks again: DescribeDeliveryStream takes 5 calls a second, which a backlog soon exceeds.
    """
    try:
        description = client.describe_delivery_stream(DeliveryStreamName=delivery_stream_name)
    except FIREHOSE_ERRORS as error:
        unsaid = classify(error)
        return unsaid if unsaid.transient else found
    status = description.get("DeliveryStreamDescription", {}).get("DeliveryStreamStatus")
    return CREATING if status == "CREATING" else found
