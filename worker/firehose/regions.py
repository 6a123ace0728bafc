"""The regions botocore knows, China and GovCloud included."""

from collections.abc import Mapping
from functools import cache

from botocore.loaders import create_loader
from botocore.regions import EndpointResolver

from schemas.quotas import default_quota


def rate_limits(overrides: Mapping[str, str]) -> dict[str, str]:
    """Per region, the requests a second that one worker may make, as Celery writes a rate."""
    return {region: overrides.get(region, f"{default_quota(region).requests}/s") for region in regions()}


@cache
def regions() -> tuple[str, ...]:
    """Every region botocore knows for Firehose, in every partition."""
    resolver = _endpoints()
    return tuple(
        sorted(
            region
            for partition in resolver.get_available_partitions()
            for region in resolver.get_available_endpoints("firehose", partition)
        )
    )


def partition(region: str) -> str:
    """The partition of a region, as ARNs name it: `aws`, `aws-cn`, `aws-us-gov`."""
    return str(_endpoints().get_partition_for_region(region))


@cache
def _endpoints() -> EndpointResolver:
    """botocore's table of endpoints. A session would need the profile that AWS_PROFILE names."""
    return EndpointResolver(create_loader().load_data("endpoints"))
