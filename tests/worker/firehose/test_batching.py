"""Batches keep Firehose's limits and their stream's quota, and part no atomic group."""

from base64 import b64encode

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.quotas import Quota, default_quota
from worker.firehose.batching import Batches, BatchLimit, batch_limit

RECORDS = 500
BYTES = 4 * 2**20
RECORD_BYTES = 1_024_000
FIREHOSE_S = BatchLimit()


def batched(*groups, limit=FIREHOSE_S):
    batches = Batches(limit)
    for lines in groups:
        batches.add(lines, "1-a", 1)
    return batches


def lines_of(batch):
    return [line for group in batch.groups for line in ([group] if isinstance(group, str) else group)]


def test_500_records_are_one_batch_and_501_are_two():
    assert [batch.records for batch in batched(*[[b"x"]] * RECORDS)] == [RECORDS]
    assert [batch.records for batch in batched(*[[b"x"]] * (RECORDS + 1))] == [RECORDS, 1]


def test_a_pair_that_no_longer_fits_goes_into_the_next_batch_whole():
    batches = batched(*[[b"x"]] * (RECORDS - 1), [b"removal", b"addition"])
    assert [batch.groups[-1] for batch in batches] == ["x", ["removal", "addition"]]
    assert [batch.records for batch in batches] == [RECORDS - 1, 2]


def test_bytes_are_counted_as_base64():
    quarter = b"x" * (BYTES // 4 // 4 * 3)
    assert len(b64encode(quarter)) * 4 == BYTES
    assert [batch.records for batch in batched(*[[quarter]] * 4)] == [4]
    assert [batch.records for batch in batched(*[[quarter]] * 4, [b"x"])] == [4, 1]


@pytest.mark.parametrize(("size", "fits"), [(RECORD_BYTES, True), (RECORD_BYTES + 1, False)])
def test_a_record_over_the_limit_is_set_apart(size, fits):
    batches = batched([b"before"], [b"x" * size], [b"after"])
    assert batches.oversize.records == (0 if fits else 1)
    assert sum(batch.records for batch in batches) == (3 if fits else 2)


def test_a_pair_with_a_record_over_the_limit_is_set_apart_whole():
    batches = batched([b"removal", b"x" * (RECORD_BYTES + 1)])
    assert (batches.oversize.records, list(batches)) == (2, [])


def test_a_batch_knows_whose_records_it_holds():
    batches = Batches(FIREHOSE_S)
    batches.add([b"x"], "1-a", 1)
    batches.add([b"x"], "2-b", 2)
    (batch,) = batches
    assert (batch.connection_ids, batch.audience_ids) == ({"1-a", "2-b"}, {1, 2})


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
    assert [batch.records for batch in batched(*[[b"x" * 100]] * 4, limit=limit)] == [4]
    assert [batch.records for batch in batched(*[[b"x" * 100]] * 4, [b"x"], limit=limit)] == [4, 1]


def test_a_stream_s_records_are_counted():
    assert [batch.records for batch in batched(*[[b"x"]] * 7, limit=BatchLimit(records=3))] == [3, 3, 1]


@pytest.mark.parametrize("limit", [BatchLimit(0, 0), BatchLimit(1, BYTES), BatchLimit(RECORDS, 3)])
def test_a_group_that_is_more_than_its_stream_s_limit_goes_alone_and_whole(limit):
    batches = batched([b"before"], [b"removal", b"addition"], [b"after"], limit=limit)
    assert [batch.groups for batch in batches] == [["before"], [["removal", "addition"]], ["after"]]


SIZE = st.integers(1, 50) | st.integers(300_000, 1_100_000)
GROUP = st.lists(SIZE, min_size=1, max_size=2)


LIMIT = st.builds(BatchLimit, st.integers(0, RECORDS), st.integers(0, 2_000) | st.integers(0, BYTES))


@given(st.lists(GROUP, max_size=20), st.integers(0, 600), LIMIT)
def test_whatever_is_batched(sizes, small_ones, limit):
    groups = [[b"x" * size for size in group] for group in sizes] + [[b"x"]] * small_ones
    batches = batched(*groups, limit=limit)
    for batch in batches:
        lines = lines_of(batch)
        assert 1 <= len(lines) == batch.records <= RECORDS
        assert sum(len(b64encode(line.encode())) for line in lines) == batch.base64_bytes <= BYTES
        assert max(map(len, lines)) <= RECORD_BYTES
        assert batch.bytes == sum(map(len, lines))
        assert len(batch.groups) == 1 or (len(lines) <= limit.records and batch.bytes <= limit.bytes)
    sent = [group for batch in batches for group in batch.groups]
    # Of a pair whose removal alone is too large, the addition is left.
    halves = [group[1:] if len(group[0]) > RECORD_BYTES and len(group) > 1 else group for group in groups]
    fitting = [group for group in halves if max(map(len, group)) <= RECORD_BYTES]
    assert sent == [
        group[0].decode() if len(group) == 1 else [line.decode() for line in group] for group in fitting
    ]
    oversize = [group for group in groups if max(map(len, group)) > RECORD_BYTES]
    assert len(batches.oversize.groups) == len(oversize)
