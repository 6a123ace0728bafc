"""The arguments of a delivery task: made, checked, and followed by the rest of their chain."""

import pytest

from worker.firehose.batching import Batch
from worker.firehose.deliveries import following_delivery, is_delivery, make_delivery, records_of
from worker.queues import Stream

STREAM = Stream("main", "us-east-1", "travel")
ADDRESS = {
    "configuration": "main",
    "delivery_stream_name": "travel",
    "connection_ids": ["1-a"],
    "audience_ids": [1],
}


CONNECTIONS = {1: "1-a", 2: "2-b", 3: "3-c"}


def batch(*groups, audience_id=1):
    return Batch(groups=list(groups), audience_ids={audience_id})


def test_a_batch_alone_has_the_arguments_that_every_version_knows():
    made = make_delivery(STREAM, [batch("a", ["b", "c"])], CONNECTIONS)
    assert made == {**ADDRESS, "records": ["a", ["b", "c"]]}


def test_a_chain_is_delivered_batch_by_batch():
    first = make_delivery(STREAM, [batch("a"), batch("b"), batch("c", audience_id=2)], CONNECTIONS)
    address = {**ADDRESS, "connection_ids": ["1-a", "2-b"], "audience_ids": [1, 2]}
    assert first == {**address, "records": ["a"], "then": [["b"], ["c"]]}
    second = following_delivery(first)
    assert second == {**address, "records": ["b"], "then": [["c"]]}
    third = following_delivery(second)
    assert third == {**address, "records": ["c"]}
    assert following_delivery(third) is None


def test_the_records_of_a_delivery_are_those_of_its_whole_chain():
    assert records_of({"records": ["a\nb\n", ["c", "d"]]}) == 4
    assert records_of({"records": ["a"], "then": [["b", "c"], ["d"]]}) == 4


GOOD = {**ADDRESS, "records": ["a", ["b", "c", "d"]]}


@pytest.mark.parametrize("kwargs", [GOOD, {**GOOD, "then": [["a"], [["b", "c"]]]}, {**GOOD, "then": []}])
def test_the_producer_s_arguments_are_a_delivery(kwargs):
    assert is_delivery(kwargs)


WRONG = [
    {"records": []},
    {"records": "a"},
    {"records": [[]]},
    {"records": [5]},
    {"records": [["a", 5]]},
    {"records": ["\ud800"]},
    {"records": [["a", "b\udfff"]]},
    {"then": [["\ud800"]]},
    {"then": None},
    {"then": "a"},
    {"then": [[]]},
    {"then": ["a"]},
    {"then": [[5]]},
    {"connection_ids": [5]},
    {"audience_ids": ["1"]},
    {"configuration": None},
]


@pytest.mark.parametrize("part", WRONG)
def test_other_arguments_are_no_delivery(part):
    assert not is_delivery({**GOOD, **part})


def test_arguments_with_a_missing_part_are_no_delivery():
    for name in GOOD:
        assert not is_delivery({key: value for key, value in GOOD.items() if key != name})
