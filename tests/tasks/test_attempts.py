"""The numbers of an attempt. `test_deliver.py` shows what is recorded of them."""

import pytest

from tasks.attempts import Attempt, seconds_since_enqueued
from worker.queues import ENQUEUED_AT_HEADER, Stream

STREAM = Stream("main", "us-east-1", "travel")


@pytest.mark.parametrize(
    ("accepted", "refused", "is_breaker_informed", "is_success"),
    [
        (2, 0, False, True),
        (2, 2, False, True),
        (1, 2, False, False),
        (0, 0, False, False),
        (2, 0, True, False),
    ],
    ids=["all", "half and half", "mostly refused", "nothing", "a run has told the breaker"],
)
def test_an_attempt_is_a_success_where_firehose_took_half_of_it(
    accepted, refused, is_breaker_informed, is_success
):
    attempt = Attempt(STREAM, "id", accepted, refused, is_breaker_informed=is_breaker_informed)
    assert attempt.is_success == is_success


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ([{ENQUEUED_AT_HEADER: 90}], 10),
        ([{ENQUEUED_AT_HEADER: 95.5}, {}, {ENQUEUED_AT_HEADER: 80}], 20),
        ([{ENQUEUED_AT_HEADER: "90"}], None),
        ([{}], None),
        ([], None),
    ],
)
def test_the_message_that_waited_longest_says_for_how_long(headers, seconds):
    assert seconds_since_enqueued(headers, now=100) == seconds
