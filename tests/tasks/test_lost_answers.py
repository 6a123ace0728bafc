"""Redis runs a command and its answer is lost, so the command is sent again: everything is counted once."""

import pytest
from lossy import Losses, lossy_client

MOST_ANSWERS = 60
"""More than a task waits for."""


@pytest.fixture
def losses():
    return Losses()


@pytest.fixture
def redis(real_redis_url, real_redis, losses):
    return lossy_client(real_redis_url, losses)


def each_loss(losses, run):
    """Run something again and again, each time with a later answer lost, until none is left to lose."""
    for answers in range(MOST_ANSWERS):
        losses.lose(answers)
        run(answers)
        if not losses.happened:
            return answers
    raise AssertionError("there is always another answer")


def test_a_batch_is_delivered_and_counted_once_whichever_answer_is_lost(
    losses, deliver, firehose, services, stream
):
    lost = each_loss(losses, lambda number: deliver("a", "b", task_id=str(number)))
    counts = services.counters.of(stream)
    assert lost > 1
    assert (counts.delivered, len(firehose.accepted("travel"))) == (2 * (lost + 1), 2 * (lost + 1))


def test_a_message_of_changes_is_counted_once_whichever_answer_is_lost(losses, forward, services, stream):
    change = {
        "type": "member_added",
        "audience_id": 1,
        "audience_external_name": "Travel",
        "user_identities": {"Email": "a"},
    }
    lost = each_loss(losses, lambda number: forward(change, task_id=str(number)))
    assert lost > 1
    assert services.counters.of(stream).enqueued == lost + 1
