"""Lines that share Firehose records: the same bytes in S3, a fraction of the bill, exact counts."""

from itertools import chain

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.firehose.batching import (
    AGGREGATED_RECORD_BYTES,
    AGGREGATED_RECORD_LINES,
    MAX_BATCH_RECORDS,
    Batches,
    BatchLimit,
    Source,
)
from worker.firehose.groups import billed_bytes, firehose_records, records_in
from worker.firehose.put import Billing, billing_of, put

SHARED = Source(1, aggregate=True)
ALONE = Source(2)
EU_CENTRAL_1 = BatchLimit(bytes=104_857)


def line(size, text="x"):
    return (text * (size - 1) + "\n").encode()


def batched(groups, source=SHARED, limit=EU_CENTRAL_1):
    batches = Batches(limit)
    for lines in groups:
        batches.add(lines, source)
    return batches


def sent(batches):
    return [record for batch in chain.from_iterable(batches) for record in firehose_records(batch.groups)]


@pytest.mark.parametrize("size", [302, 374])
def test_aggregated_records_cost_at_least_8_times_less_and_are_the_same_bytes(size):
    groups = [[line(size)]] * 5_000
    shared, alone = sent(batched(groups)), sent(batched(groups, ALONE))
    assert 8 * billed_bytes(map(len, shared)) <= billed_bytes(map(len, alone))
    assert "".join(shared) == "".join(alone)


def test_an_aggregated_record_holds_at_most_500_lines_and_50_kib():
    assert [record.count("\n") for record in sent(batched([[line(2)]] * 1_200))] == [500, 500, 200]
    assert max(map(len, sent(batched([[line(1_000)]] * 200)))) <= AGGREGATED_RECORD_BYTES


def test_the_lines_of_one_user_count_towards_the_500_of_a_record():
    groups = [[line(2)] * 400, *[[line(2)]] * 200]
    assert [record.count("\n") for record in sent(batched(groups))] == [500, 100]


def test_a_batch_counts_lines_and_its_limit_counts_firehose_records():
    ((batch,),) = batched([[line(374)]] * 250)
    assert (batch.records, batch.firehose_records, batch.bytes) == (250, 2, 250 * 374)
    assert records_in(batch.groups) == 250


def test_a_user_s_records_share_one_firehose_record():
    groups = [[line(20_000)] * 2, [line(20_000)] * 2]
    assert [record.count("\n") for record in sent(batched(groups))] == [2, 2]


def test_a_group_that_needs_several_firehose_records_keeps_them_together():
    ((batch,),) = batched([[line(100)], [line(30_000, str(number)) for number in range(3)], [line(100)]])
    assert [len(firehose_records([group])) for group in batch.groups] == [1, 3, 1]


def test_records_of_a_connection_that_does_not_aggregate_stay_alone():
    batches = Batches(EU_CENTRAL_1)
    for source in (SHARED, SHARED, ALONE, SHARED, SHARED, ALONE, ALONE):
        batches.add([line(10)], source)
    assert [record.count("\n") for record in sent(batches)] == [2, 1, 2, 1, 1]


GROUPS = st.lists(st.lists(st.integers(2, 60_000), min_size=1, max_size=4), max_size=30)


@given(GROUPS, st.booleans())
def test_whatever_is_aggregated_no_line_is_lost_and_groups_keep_their_order(sizes, in_stages):
    groups = [[line(size) for size in group] for group in sizes]
    batches = Batches(EU_CENTRAL_1)
    if in_stages:
        batches.add_stages([groups[:10], groups[10:]], SHARED)
    else:
        for lines in groups:
            batches.add(lines, SHARED)
    for batch in chain.from_iterable(batches):
        records = firehose_records(batch.groups)
        assert len(records) == batch.firehose_records <= MAX_BATCH_RECORDS
        assert batch.records == records_in(batch.groups)
        assert batch.bytes == sum(map(len, records))
        assert all(record.count("\n") <= AGGREGATED_RECORD_LINES for record in records)
    assert "".join(sent(batches)) == b"".join(chain.from_iterable(groups)).decode()


class Firehose:
    def __init__(self, *answers):
        self._answers = list(answers)

    def put_record_batch(self, **_):
        return {"RequestResponses": self._answers}


TAKEN, REFUSED = {"RecordId": "1"}, {"ErrorCode": "ServiceUnavailableException"}


def test_a_refused_aggregated_record_is_sent_again_whole_and_counted_by_its_lines():
    groups = ["a\nb\nc\n", "d\ne\n", ["f\ng\n", "h\n"]]
    outcome = put(Firehose(TAKEN, REFUSED, TAKEN, REFUSED), "travel", groups)
    assert (outcome.accepted, outcome.refused, outcome.remaining) == (5, 3, ["d\ne\n", "h\n"])


def test_a_bill_counts_accepted_firehose_records_in_steps_of_5_kib():
    groups = [line(374).decode() * 100, line(6_000).decode(), line(374).decode()]
    outcome = put(Firehose(TAKEN, TAKEN, REFUSED), "travel", groups)
    assert outcome.billing == Billing(billed_bytes=(8 + 2) * 5_120, saved_bytes=(100 - 8) * 5_120)
    assert billing_of([]) == Billing(0, 0)
