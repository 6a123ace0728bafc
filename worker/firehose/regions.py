"""The regions botocore knows, China and GovCloud included, and what each allows."""

from collections.abc import Mapping
from functools import cache
from typing import NamedTuple

import botocore.session

from worker.errors import SettingError


class Quota(NamedTuple):
    """What one stream may take by default under Direct PUT.

    Source: "Amazon Data Firehose Quota" in the AWS developer guide.
    """

    records: int
    """A second."""
    requests: int
    """A second."""
    bytes: int
    """A second."""


LARGE = Quota(records=500_000, requests=2_000, bytes=5 * 2**20)
STANDARD = Quota(records=100_000, requests=1_000, bytes=1 * 2**20)
LARGE_REGIONS = {"us-east-1", "us-west-2", "eu-west-1"}


def quota(region: str) -> Quota:
    """The default quota of a stream in this region."""
    return LARGE if region in LARGE_REGIONS else STANDARD


def rate_limits(overrides: Mapping[str, str]) -> dict[str, str]:
    """Per region, the requests a second that one worker may make, as Celery writes a rate."""
    if unknown := sorted(overrides.keys() - set(regions())):
        raise SettingError(f"AUDIENCE_RATE_LIMITS: no such region: {', '.join(unknown)}")
    return {region: overrides.get(region, f"{quota(region).requests}/s") for region in regions()}


@cache
def regions() -> tuple[str, ...]:
    """Every region botocore knows for Firehose, in every partition."""
    session = botocore.session.get_session()
    return tuple(
        sorted(
            region
            for partition in session.get_available_partitions()
            for region in session.get_available_regions("firehose", partition)
        )
    )


def partition(region: str) -> str:
    """The partition of a region, as ARNs name it: `aws`, `aws-cn`, `aws-us-gov`."""
    return str(botocore.session.get_session().get_partition_for_region(region))
