"""What an operator writes of a stream's quota: `1MiB/s`, `1MiB/s+200requests/s`."""

import re
from decimal import Decimal

UNITS = {
    "B": ("bytes", 1),
    "KiB": ("bytes", 2**10),
    "MiB": ("bytes", 2**20),
    "requests": ("requests", 1),
    "records": ("records", 1),
}
"""Of which figure each is, and how many of it."""
PART = re.compile(
    # Nobody's quota needs more digits, and a fraction of a byte, a request or a record is none.
    r"(?P<number>[0-9]{1,12})(?P<unit>B|requests|records)/s"
    r"|(?P<fraction>[0-9]{1,12}(?:\.[0-9]{1,6})?)(?P<multiple>KiB|MiB)/s"
)


def stated_figures(text: str) -> dict[str, int]:
    """What `text` states a second, of `bytes`, `requests` and `records`; raises `ValueError`."""
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
