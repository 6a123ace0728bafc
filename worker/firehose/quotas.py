"""What a stream may take of all that send to it together."""

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from schemas.quotas import stated_figures


class Quota(NamedTuple):
    """What one stream may take under Direct PUT, a second."""

    records: int
    requests: int
    bytes: int
    """Of the records' data, before base64."""


LARGE = Quota(records=500_000, requests=2_000, bytes=5 * 2**20)
STANDARD = Quota(records=100_000, requests=1_000, bytes=1 * 2**20)
LARGE_REGIONS = {"us-east-1", "us-west-2", "eu-west-1"}
"""Source of all three: "Amazon Data Firehose Quota" in the AWS developer guide."""


def default_quota(region: str) -> Quota:
    """What AWS allows a stream in this region unless it was asked for more."""
    return LARGE if region in LARGE_REGIONS else STANDARD


def region_quota(region: str, overrides: Mapping[str, Quota]) -> Quota:
    """The quota of a region's streams: the operator's, or else the default."""
    return overrides.get(region) or default_quota(region)


def stated_quota(otherwise: Quota, texts: Iterable[str]) -> Quota:
    """Of each figure the smallest that a text (`1MiB/s`) states; where none does, as `otherwise`.

    Raises `ValueError` where a text is no quota.
    """
    smallest: dict[str, int] = {}
    for text in texts:
        for name, figure in stated_figures(text).items():
            smallest[name] = min(figure, smallest.get(name, figure))
    return otherwise._replace(**smallest)
