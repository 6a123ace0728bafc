"""The regions botocore knows, China and GovCloud included."""

from collections.abc import Mapping
from functools import cache

import botocore.session

from schemas.quotas import default_quota


def rate_limits(overrides: Mapping[str, str]) -> dict[str, str]:
    """Per region, the requests a second that one worker may make, as Celery writes a rate."""
    return {region: overrides.get(region, f"{default_quota(region).requests}/s") for region in regions()}


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
