"""Stream quotas, and the text in which operators write them: `1MiB/s`, `1MiB/s+200requests/s`."""

import re
from collections.abc import Iterable, Mapping
from decimal import Decimal
from typing import NamedTuple

UNITS = {
    "B": ("bytes", 1),
    "KiB": ("bytes", 2**10),
    "MiB": ("bytes", 2**20),
    "requests": ("requests", 1),
    "records": ("records", 1),
}
"""By unit, the figure of a quota that it counts, and its multiplier."""
PART = re.compile(
    # Nobody's quota needs more digits, and a fraction of a byte, a request or a record is none.
    r"(?P<number>[0-9]{1,12})(?P<unit>B|requests|records)/s"
    r"|(?P<fraction>[0-9]{1,12}(?:\.[0-9]{1,6})?)(?P<multiple>KiB|MiB)/s"
)


def stated_figures(text: str) -> dict[str, int]:
    """Parse a text into figures a second, by `bytes`, `requests` and `records`. Raises `ValueError`."""
    figures: dict[str, int] = {}
    for part in text.split("+"):
        name, figure = _figure(part)
        if name in figures:
            raise ValueError(f"{text!r} states its {name} twice")
        figures[name] = figure
    return figures


def _figure(part: str) -> tuple[str, int]:
    match = PART.fullmatch(part)
    if not match:
        raise ValueError(f"{part!r} is not a quota such as 1MiB/s, 200requests/s or 50000records/s")
    name, multiplier = UNITS[match["unit"] or match["multiple"]]
    figure = int(Decimal(match["number"] or match["fraction"]) * multiplier)
    if not figure:
        raise ValueError(f"{part!r} would let nothing through; `audience-firehose pause` does that")
    return name, figure


class Quota(NamedTuple):
    """The limits of a stream under Direct PUT, a second."""

    records: int
    requests: int
    bytes: int
    """The bytes of the records' data, before base64."""


LARGE = Quota(records=500_000, requests=2_000, bytes=5 * 2**20)
STANDARD = Quota(records=100_000, requests=1_000, bytes=1 * 2**20)
LARGE_REGIONS = {"us-east-1", "us-west-2", "eu-west-1"}
"""Source of all three: "Amazon Data Firehose Quota" in the AWS developer guide."""


def default_quota(region: str) -> Quota:
    """Return AWS's default quota of a stream in this region."""
    return LARGE if region in LARGE_REGIONS else STANDARD


def region_quota(region: str, overrides: Mapping[str, Quota]) -> Quota:
    """The quota of a region's streams: the operator's, or else the default."""
    return overrides.get(region) or default_quota(region)


def stated_quota(otherwise: Quota, texts: Iterable[str]) -> Quota:
    """Combine texts (`1MiB/s`): the smallest figure of each kind, or that of `otherwise`.

    Raises `ValueError` where a text is no quota.
    """
    smallest: dict[str, int] = {}
    for text in texts:
        for name, figure in stated_figures(text).items():
            smallest[name] = min(figure, smallest.get(name, figure))
    return otherwise._replace(**smallest)
