"""A PutRecordBatch call: the records that are accepted, and those that must be sent again."""

import pytest

from worker.firehose.put import put, put_singly

TAKEN = {"RecordId": "1"}
REFUSED = {"ErrorCode": "ServiceUnavailableException", "ErrorMessage": "Slow down."}


class Firehose:
    """Gives prepared answers and remembers the records of each call."""

    def __init__(self, *answers, failed=None):
        count = sum("ErrorCode" in answer for answer in answers) if failed is None else failed
        self.response = {"FailedPutCount": count, "RequestResponses": list(answers)}
        self.sent = None

    def put_record_batch(self, **request):
        self.sent = request
        return self.response


def test_records_are_sent_in_their_order_under_the_stream_s_name():
    firehose = Firehose(TAKEN, TAKEN, TAKEN)
    put(firehose, "travel", ["ä\n", ["b\n", "c\n"]])
    assert firehose.sent == {
        "DeliveryStreamName": "travel",
        "Records": [{"Data": "ä\n".encode()}, {"Data": b"b\n"}, {"Data": b"c\n"}],
    }


def test_an_answer_that_accepts_all_leaves_nothing():
    assert put(Firehose(TAKEN, TAKEN, TAKEN), "travel", ["a", ["b", "c"]])[:4] == (3, 0, [], None)


def test_refused_records_remain_in_their_order():
    outcome = put(Firehose(REFUSED, TAKEN, REFUSED, TAKEN), "travel", ["a", "b", "c", "d"])
    assert (outcome.accepted, outcome.refused, outcome.remaining) == (2, 2, ["a", "c"])
    assert outcome.failure.error_code == "ServiceUnavailableException"


PAIRS = {
    "the removal refused": ([REFUSED, TAKEN], [["removal", "addition"]]),
    "the addition refused": ([TAKEN, REFUSED], ["addition"]),
    "both refused": ([REFUSED, REFUSED], [["removal", "addition"]]),
    "none refused": ([TAKEN, TAKEN], []),
}


@pytest.mark.parametrize(("answers", "remaining"), PAIRS.values(), ids=PAIRS)
def test_a_refused_removal_leaves_the_pair_and_a_refused_addition_itself(answers, remaining):
    groups = ["before", ["removal", "addition"], "after"]
    outcome = put(Firehose(TAKEN, *answers, REFUSED), "travel", groups)
    assert outcome.remaining == [*remaining, "after"]
    assert outcome.refused == answers.count(REFUSED) + 1


def test_a_refused_record_is_transient_whatever_its_code():
    odd = {"ErrorCode": "SomethingNobodyHasHeardOf"}
    failure = put(Firehose(odd), "travel", ["a"]).failure
    assert (failure.alert_type, failure.error_code) == (
        "500 - Internal Server Error",
        "SomethingNobodyHasHeardOf",
    )


MISMATCHES = {
    "too few entries": Firehose(REFUSED),
    "too many entries": Firehose(REFUSED, TAKEN, TAKEN),
    "no entries": Firehose(failed=1),
}


@pytest.mark.parametrize("firehose", MISMATCHES.values(), ids=MISMATCHES)
def test_all_groups_remain_where_the_entries_do_not_match_the_records(firehose):
    outcome = put(firehose, "travel", ["a", "b"])
    assert (outcome.accepted, outcome.refused, outcome.remaining) == (0, 2, ["a", "b"])
    assert outcome.failure.error_code == "MalformedResponse"


def test_a_count_of_failures_that_no_entry_confirms_is_ignored():
    assert put(Firehose(TAKEN, TAKEN, failed=1), "travel", ["a", "b"])[:4] == (2, 0, [], None)


class Singly:
    """Accepts one record a call, ten seconds each, until `refusing`."""

    def __init__(self, refusing=None):
        self.now = 0.0
        self.refusing = refusing

    def put_record(self, Record, **_):  # noqa: N803 boto3's own name
        self.now += 10
        return {} if Record["Data"] == self.refusing else TAKEN


def test_records_that_put_record_had_no_time_for_remain_and_are_not_refused():
    firehose = Singly()
    outcome = put_singly(firehose, "travel", list("abcdef"), lambda: firehose.now)
    assert (outcome.accepted, outcome.refused, outcome.remaining) == (2, 0, list("cdef"))
    assert not outcome.is_mostly_refused


def test_of_records_that_go_one_a_call_only_the_refused_one_counts_as_refused():
    firehose = Singly(refusing=b"b")
    outcome = put_singly(firehose, "travel", list("abcdef"), lambda: firehose.now)
    assert (outcome.accepted, outcome.refused, outcome.remaining) == (1, 1, list("bcdef"))
