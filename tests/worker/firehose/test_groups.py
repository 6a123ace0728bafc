"""Atomic groups: their shape in a message, their counts, and what of them is sent again."""

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.firehose.groups import (
    Size,
    are_groups,
    as_group,
    firehose_records,
    records_in,
    remaining_after,
    size_of,
)

GROUPS = ["a\n", ["b\n", "c\n", "d\n"], "e"]


def test_a_group_of_one_firehose_record_is_a_string():
    assert as_group(["a"]) == "a"
    assert as_group(["a", "b"]) == ["a", "b"]


@pytest.mark.parametrize("value", ["a", ["a"], ["a", "b", "c"]])
def test_strings_and_lists_of_strings_are_groups(value):
    assert are_groups(["alone", value])


@pytest.mark.parametrize(
    "value", [None, 5, [], [5], ["a", None], [["a"]], {"a": "b"}, "\ud83d", ["a", "\ude00"]]
)
def test_anything_else_is_no_group(value):
    assert not are_groups(["alone", value])


def test_half_a_surrogate_pair_is_no_text_before_the_other_half_either():
    assert not are_groups(["\ud83d", "\ude00"])


def test_firehose_records_come_in_the_order_of_the_groups():
    assert firehose_records(GROUPS) == ["a\n", "b\n", "c\n", "d\n", "e"]


def test_a_record_is_a_line_with_or_without_its_newline():
    assert records_in(["a\n", "b", "c\nd\ne\n", ["f\ng\n", "h\n"]]) == 1 + 1 + 3 + 2 + 1


def test_the_size_counts_firehose_records_and_their_bytes():
    assert size_of(["ä\nb\n", ["c", "d"]]) == Size(firehose_records=3, bytes=7)


REFUSALS = {
    "nothing": ([], []),
    "a single record": ([0], ["a\n"]),
    "the first of a group": ([1], [["b\n", "c\n", "d\n"]]),
    "the second of a group, so the third follows it": ([2], [["c\n", "d\n"]]),
    "the last of a group": ([3], ["d\n"]),
    "the first and the last of a group": ([1, 3], [["b\n", "c\n", "d\n"]]),
    "of several groups": ([0, 2, 4], ["a\n", ["c\n", "d\n"], "e"]),
}


@pytest.mark.parametrize(("positions", "remaining"), REFUSALS.values(), ids=REFUSALS)
def test_a_refused_record_is_sent_again_with_those_after_it_in_its_group(positions, remaining):
    assert remaining_after(GROUPS, [position in positions for position in range(5)]) == remaining


@given(st.lists(st.integers(1, 5), min_size=1, max_size=8), st.integers())
def test_whatever_is_refused_the_last_record_of_each_group_to_arrive_is_its_last(sizes, seed):
    groups = [as_group([f"{group}-{number}" for number in range(size)]) for group, size in enumerate(sizes)]
    random, last_to_arrive = Random(seed), {}
    remaining = groups
    while remaining:
        records = firehose_records(remaining)
        refused = [random.random() < 0.4 for _ in records]
        for record, is_refused in zip(records, refused, strict=True):
            if not is_refused:
                last_to_arrive[record.split("-")[0]] = record
        remaining = remaining_after(remaining, refused)
    assert last_to_arrive == {str(group): f"{group}-{size - 1}" for group, size in enumerate(sizes)}
