"""Which attempts are done with."""

import pytest

from worker.environment import read
from worker.state import RECEIPTS_KEPT
from worker.state.receipts import RECEIPTS


@pytest.fixture
def receipts(state):
    return state.receipts


def test_an_attempt_is_done_with_and_no_other(receipts):
    receipts.issue("task", 1)
    assert receipts.issued("task", 1)
    assert not receipts.issued("task", 0)
    assert not receipts.issued("task", 2)
    assert not receipts.issued("another", 1)


def test_a_receipt_outlives_the_return_of_its_message(receipts, redis):
    receipts.issue("task", 0)
    (key,) = redis.keys(f"{RECEIPTS}*")
    assert redis.ttl(key) == RECEIPTS_KEPT * read({}).visibility_timeout
    assert RECEIPTS_KEPT >= 2


def test_a_message_that_comes_back_was_received_when_it_first_came(receipts):
    assert receipts.received_at("task", 100) == 100
    assert receipts.received_at("task", 200) == 100
    assert receipts.received_at("another", 200) == 200
