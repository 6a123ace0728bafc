"""Atomic groups: Firehose records that a stream must receive in their order.

In a message a group is a string (one Firehose record) or a list of strings. A group travels in one
call. If Firehose refuses one of its records, that one and those after it are sent again, so that the
last record of a group arrives last. No other module knows a group's shape.

A Firehose record holds one line, or several of a connection that aggregates. Counters count lines,
which are the records of the contract; quotas and Firehose's limits count Firehose records.
"""

from collections.abc import Iterable, Sequence
from itertools import chain
from typing import Any, NamedTuple, cast

from schemas.fields import is_utf8

Group = str | list[str]

BILLING_STEP_BYTES = 5 * 1024
"""AWS bills each Firehose record rounded up to a multiple of this. Source: Amazon Data Firehose's pricing."""


class Size(NamedTuple):
    """How much groups take of their stream's quota."""

    firehose_records: int
    bytes: int
    """Before base64."""


def as_group(firehose_records: list[str]) -> Group:
    """The group of these Firehose records, of which there is at least one."""
    return firehose_records[0] if len(firehose_records) == 1 else firehose_records


def are_groups(values: Sequence[Any]) -> bool:
    """Whether values that came with a message, in its JSON, are groups."""
    if not set(map(type, values)) <= {str, list} or [] in values:
        return False
    try:
        text = "".join(firehose_records(values))
    except TypeError:
        return False
    # JSON can spell half a surrogate pair, which has no bytes that Firehose could be sent.
    return is_utf8(text)


def firehose_records(groups: Iterable[Group]) -> list[str]:
    """The Firehose records of groups, in the order in which they are sent."""
    found = list(groups)
    if set(map(type, found)) <= {str}:
        # Usual, and cheaper than to look at each alone.
        return cast(list[str], found)
    return [*chain.from_iterable([group] if isinstance(group, str) else group for group in found)]


def lines_in(firehose_records: Sequence[str]) -> int:
    """How many lines Firehose records hold. A line without its newline is one, too."""
    # To find a newline before the last character costs a third of counting.
    shared = [record for record in firehose_records if record.find("\n", 0, -1) >= 0]
    return len(firehose_records) + sum(record.count("\n") - 1 for record in shared)


def records_in(groups: Iterable[Group]) -> int:
    """How many records these groups hold, as counters count them: lines."""
    return lines_in(firehose_records(groups))


def size_of(groups: Iterable[Group]) -> Size:
    """The size of groups. Raises `TypeError` where something among them is none."""
    records = firehose_records(groups)
    return Size(len(records), len("".join(records).encode()))


def billed_bytes(sizes: Iterable[int]) -> int:
    """The bytes that AWS bills for Firehose records of these sizes."""
    return BILLING_STEP_BYTES * sum([-(-size // BILLING_STEP_BYTES) for size in sizes])


def remaining_after(groups: Sequence[Group], refused: Sequence[bool]) -> list[Group]:
    """The groups to send again after a call, in their order.

    `refused` has an entry for each Firehose record, in the order of `firehose_records`.
    """
    remaining: list[Group] = []
    start = 0
    for group in groups:
        members = [group] if isinstance(group, str) else group
        end = start + len(members)
        if True in refused[start:end]:
            remaining.append(as_group(members[refused.index(True, start, end) - start :]))
        start = end
    return remaining
