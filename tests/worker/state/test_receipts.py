"""Which attempts are done with."""

import pytest

from worker.environment import FIREHOSE_TIMEOUT, read
from worker.firehose.clients import CONNECT_TIMEOUT
from worker.state import RECEIPTS_KEPT
from worker.state.receipts import CLAIMS, RECEIPTS, Standing


@pytest.fixture
def receipts(state):
    return state.receipts


def test_an_attempt_is_done_with_and_no_other(receipts, redis):
    receipts.issue("task", 1, redis)
    assert receipts.issued("task", 1)
    assert not receipts.issued("task", 0)
    assert not receipts.issued("task", 2)
    assert not receipts.issued("another", 1)


def test_a_receipt_outlives_the_return_of_its_message(receipts, redis):
    receipts.issue("task", 0, redis)
    (key,) = redis.keys(f"{RECEIPTS}*")
    assert redis.ttl(key) == RECEIPTS_KEPT * read({}).visibility_timeout
    assert RECEIPTS_KEPT >= 2


def test_a_message_that_comes_back_was_received_when_it_first_came(receipts):
    assert receipts.received_at("task", 100) == 100
    assert receipts.received_at("task", 200) == 100
    assert receipts.received_at("another", 200) == 200


def test_whoever_begins_first_claims_the_attempt(receipts):
    assert receipts.begin("task", 0, "one") is Standing.CLAIMED
    assert receipts.begin("task", 0, "other") is Standing.ELSEWHERE
    assert receipts.begin("task", 1, "other") is Standing.CLAIMED


def test_a_claim_ends_with_a_receipt_a_release_or_a_death(receipts, redis):
    for name in ("issue", "release", "lost"):
        receipts.begin(name, 0, "one")
    receipts.issue("issue", 0, redis)
    receipts.release("release", 0, "one")
    receipts.lost("lost", 0)
    assert receipts.begin("issue", 0, "other") is Standing.DONE
    assert receipts.begin("release", 0, "other") is Standing.CLAIMED
    assert receipts.begin("lost", 0, "other") is Standing.CLAIMED


def test_nobody_releases_what_somebody_else_has_claimed(receipts):
    receipts.begin("task", 0, "one")
    receipts.release("task", 0, "other")
    assert receipts.begin("task", 0, "other") is Standing.ELSEWHERE


def test_who_finds_an_attempt_done_claims_nothing(receipts, redis):
    receipts.issue("task", 0, redis)
    assert receipts.begin("task", 0, "one") is Standing.DONE
    assert not redis.keys(f"{CLAIMS}*")


def test_a_claim_outlives_a_call_of_firehose_and_no_return_of_its_message(receipts, redis):
    receipts.begin("task", 0, "one")
    (key,) = redis.keys(f"{CLAIMS}*")
    assert CONNECT_TIMEOUT + FIREHOSE_TIMEOUT < redis.ttl(key) <= read({}).visibility_timeout
