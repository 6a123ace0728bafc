"""A delivery stream by its ARN, as the AWS console copies it."""

import re

from schemas.settings import DELIVERY_STREAM_NAME, REGION_NAME
from worker.errors import InvalidSettings
from worker.firehose.regions import partition, regions

ARN_PREFIX = "arn:"
STREAM_ARN = re.compile(
    rf"arn:(?P<partition>[a-z-]+):firehose:(?P<region>{REGION_NAME}):[0-9]{{12}}"
    rf":deliverystream/(?P<name>{DELIVERY_STREAM_NAME})",
    re.ASCII,
)


def name_and_region(stream: str, region: str | None) -> tuple[str, str | None]:
    """A stream's name and region, where either its name or its ARN is given. Raises `InvalidSettings`."""
    if not stream.startswith(ARN_PREFIX):
        return stream, region
    arn = STREAM_ARN.fullmatch(stream)
    if not arn:
        raise InvalidSettings(
            "delivery_stream_name: not the ARN of a delivery stream, which looks like"
            " arn:aws:firehose:us-east-1:123456789012:deliverystream/NAME; a name alone will do, too"
        )
    if region not in (None, arn["region"]):
        raise InvalidSettings(
            f"region: --region {region} contradicts the stream's ARN, which is in {arn['region']};"
            " leave --region away"
        )
    if arn["region"] in regions() and partition(arn["region"]) != arn["partition"]:
        raise InvalidSettings(
            f"delivery_stream_name: {arn['region']} is not a region of {arn['partition']}; copy the ARN again"
        )
    return arn["name"], arn["region"]
