"""Batches keep Firehose's limits and their stream's quota, and part no atomic group."""

from base64 import b64encode
from itertools import chain

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.quotas import Quota, default_quota
from worker.firehose.batching import Batches, BatchLimit, Source, batch_limit, is_oversize

RECORDS = 500
BYTES = 4 * 2**20
RECORD_BYTES = 1_024_000
FIREHOSE_S = BatchLimit()
SOURCE = Source(1)


def batched(*groups, limit=FIREHOSE_S):
    batches = Batches(limit)
    for lines in groups:
        batches.add(lines, SOURCE)
    return batches


def single(batches):
    """The batches, none of which waits for another."""
    return [batch for (batch,) in batches]


def lines_of(batch):
    return [line for group in batch.groups for line in ([group] if isinstance(group, str) else group)]


def test_500_records_are_one_batch_and_501_are_two():
    assert [batch.records for batch in single(batched(*[[b"x"]] * RECORDS))] == [RECORDS]
    assert [batch.records for batch in single(batched(*[[b"x"]] * (RECORDS + 1)))] == [RECORDS, 1]


def test_a_pair_that_no_longer_fits_goes_into_the_next_batch_whole():
    batches = batched(*[[b"x"]] * (RECORDS - 1), [b"removal", b"addition"])
    assert [batch.groups[-1] for batch in single(batches)] == ["x", ["removal", "addition"]]
    assert [batch.records for batch in single(batches)] == [RECORDS - 1, 2]


def test_bytes_are_counted_as_base64():
    quarter = b"x" * (BYTES // 4 // 4 * 3)
    assert len(b64encode(quarter)) * 4 == BYTES
    assert [batch.records for batch in single(batched(*[[quarter]] * 4))] == [4]
    assert [batch.records for batch in single(batched(*[[quarter]] * 4, [b"x"]))] == [4, 1]


def test_records_set_apart_are_in_no_batch():
    batches = batched([b"before"], [b"after"])
    batches.set_apart([b"removal", b"x" * (RECORD_BYTES + 1)], Source(2))
    assert (batches.oversize.records, batches.oversize.audience_ids) == (2, {2})
    assert [batch.groups for batch in single(batches)] == [["before", "after"]]
    assert batches.records == 4


@pytest.mark.parametrize(("size", "oversize"), [(RECORD_BYTES, False), (RECORD_BYTES + 1, True)])
def test_a_line_is_oversize_above_the_limit_of_firehose(size, oversize):
    assert is_oversize(b"x" * size) is oversize


def test_a_batch_knows_the_audiences_of_its_records():
    batches = Batches(FIREHOSE_S)
    batches.add([b"x"], Source(1))
    batches.add([b"x"], Source(2))
    ((batch,),) = batches
    assert batch.audience_ids == {1, 2}


def test_a_group_that_no_call_can_take_is_a_chain_of_batches():
    numbers = [str(number).encode() for number in range(RECORDS + 1)]
    before, after, (first, second) = batched([b"before"], numbers, [b"after"] * RECORDS)
    assert [batch.records for batch in (*before, *after)] == [1, RECORDS]
    assert [batch.groups for batch in (first, second)] == [
        [[str(number) for number in range(RECORDS)]],
        [str(RECORDS)],
    ]


def test_a_group_of_too_many_bytes_is_a_chain_of_batches_of_its_stream_s_size():
    large = b"x" * RECORD_BYTES
    (found,) = batched([large] * 5, limit=BatchLimit(bytes=2 * RECORD_BYTES))
    assert [batch.records for batch in found] == [2, 2, 1]


def test_a_stage_begins_with_a_batch_of_its_own():
    batches = Batches(BatchLimit(records=3))
    batches.add_stages([[[b"a"], [b"b", b"c"], [b"d"]], [[b"deletion"]], [], [[b"e"]]], SOURCE)
    (found,) = batches
    assert [batch.groups for batch in found] == [["a", ["b", "c"]], ["d"], ["deletion"], ["e"]]
    assert batches.records == 6


LIMITS = {
    "a tenth of a second's records and bytes": (Quota(1_000, 7, 10_000), BatchLimit(100, 1_000)),
    "never more than Firehose takes": (Quota(10**9, 7, 10**9), BatchLimit(RECORDS, BYTES)),
    "a region of 1 MiB": (default_quota("eu-central-1"), BatchLimit(RECORDS, 104_857)),
    "a region of 5 MiB": (default_quota("us-east-1"), BatchLimit(RECORDS, 524_288)),
    "a quota below ten": (Quota(9, 7, 9), BatchLimit(0, 0)),
}


@pytest.mark.parametrize(("quota", "limit"), LIMITS.values(), ids=LIMITS)
def test_a_batch_is_a_small_part_of_its_stream_s_quota(quota, limit):
    assert batch_limit(quota) == limit


def test_a_stream_s_bytes_are_counted_as_they_are_and_not_as_base64():
    limit = BatchLimit(bytes=400)
    assert [batch.records for batch in single(batched(*[[b"x" * 100]] * 4, limit=limit))] == [4]
    assert [batch.records for batch in single(batched(*[[b"x" * 100]] * 4, [b"x"], limit=limit))] == [4, 1]


def test_a_stream_s_records_are_counted():
    assert [batch.records for batch in single(batched(*[[b"x"]] * 7, limit=BatchLimit(records=3)))] == [
        3,
        3,
        1,
    ]


@pytest.mark.parametrize("limit", [BatchLimit(0, 0), BatchLimit(1, BYTES), BatchLimit(RECORDS, 3)])
def test_a_group_that_is_more_than_its_stream_s_limit_goes_alone_and_whole(limit):
    batches = batched([b"before"], [b"removal", b"addition"], [b"after"], limit=limit)
    assert [batch.groups for batch in single(batches)] == [["before"], [["removal", "addition"]], ["after"]]


SIZE = st.integers(1, 50) | st.integers(300_000, RECORD_BYTES)
GROUP = st.lists(SIZE, min_size=1, max_size=5)
LIMIT = st.builds(BatchLimit, st.integers(0, RECORDS), st.integers(0, 2_000) | st.integers(0, BYTES))


@given(st.lists(GROUP, max_size=20), st.integers(0, 600), LIMIT, st.booleans())
def test_any_groups_are_batched_in_order_without_loss_within_the_limits(
    sizes, small_ones, limit, in_one_stage
):
    groups = [[b"x" * size for size in group] for group in sizes] + [[b"x"]] * small_ones
    batches = batched(*([] if in_one_stage else groups), limit=limit)
    if in_one_stage:
        batches.add_stages([groups], SOURCE)
    for batch in chain.from_iterable(batches):
        lines = lines_of(batch)
        assert 1 <= len(lines) == batch.records <= RECORDS
        assert sum(len(b64encode(line.encode())) for line in lines) == batch.base64_bytes <= BYTES
        assert batch.bytes == sum(map(len, lines))
        assert len(batch.groups) == 1 or (len(lines) <= limit.records and batch.bytes <= limit.bytes)
    sent = [line.encode() for batch in chain.from_iterable(batches) for line in lines_of(batch)]
    assert sorted(sent) == sorted(chain.from_iterable(groups))


@pytest.mark.parametrize("line", ["x" * (RECORD_BYTES + 1), "ä" * (RECORD_BYTES // 2 + 1)])
def test_nothing_is_added_of_lines_of_which_one_is_too_large(line):
    batches = Batches(BatchLimit())
    assert not batches.add_lines(["x", line], [1, 1])
    assert not batches.records


@given(st.lists(SIZE, max_size=20), st.integers(0, 600), st.integers(1, 3), LIMIT, st.sampled_from("xä"))
def test_lines_that_are_added_together_are_batched_as_one_after_the_other(
    sizes, small_ones, audiences, limit, letter
):
    lines = [letter * (size // 2 or 1) for size in [*sizes, *[1] * small_ones]]
    audience_ids = [number % audiences for number in range(len(lines))]
    together, one_by_one = Batches(limit), Batches(limit)
    assert together.add_lines(lines, audience_ids)
    for line, audience_id in zip(lines, audience_ids, strict=True):
        one_by_one.add((line.encode(),), Source(audience_id))
    for batches in (together, one_by_one):
        batches.add([b"further"], SOURCE)

    def shown(batches):
        return [
            (batch.groups, batch.records, batch.firehose_records, batch.bytes, batch.base64_bytes)
            for batch in single(batches)
        ], [batch.audience_ids for batch in single(batches)]

    assert shown(together) == shown(one_by_one)
