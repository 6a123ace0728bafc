"""The audiences whose changes were skipped, for each reason."""

import pytest

from schemas.records import Skip
from worker.state.skipped_audiences import MAX_AUDIENCES, SKIPPED


@pytest.fixture
def audiences(services):
    return services.skipped_audiences


def test_records_are_added_up_by_reason_and_audience_the_most_first(audiences):
    audiences.record({(1, Skip.NO_CONNECTION): 2, (2, Skip.NO_CONNECTION): 3, (1, Skip.ANONYMOUS): 4})
    audiences.record({(1, Skip.NO_CONNECTION): 5})
    found = audiences.all()
    assert found == {Skip.NO_CONNECTION: ({1: 7, 2: 3}, 0), Skip.ANONYMOUS: ({1: 4}, 0)}
    assert list(found[Skip.NO_CONNECTION].by_audience) == [1, 2]


def test_the_audiences_kept_are_bounded_and_the_others_counted_together(audiences):
    kept = range(MAX_AUDIENCES)
    audiences.record({(audience, Skip.NO_CONNECTION): 1 for audience in kept})
    audiences.record({(MAX_AUDIENCES, Skip.NO_CONNECTION): 2, (-1, Skip.NO_CONNECTION): 3})
    audiences.record({(0, Skip.NO_CONNECTION): 1, (MAX_AUDIENCES, Skip.NO_CONNECTION): 1})
    by_audience, others = audiences.all()[Skip.NO_CONNECTION]
    assert by_audience == dict.fromkeys(kept, 1) | {0: 2}
    assert others == 6


def test_a_forgotten_audience_makes_room_for_another(audiences):
    audiences.record({(audience, Skip.NO_CONNECTION): 1 for audience in range(MAX_AUDIENCES + 1)})
    audiences.forget(0)
    audiences.record({(-1, Skip.NO_CONNECTION): 1})
    by_audience, others = audiences.all()[Skip.NO_CONNECTION]
    assert (-1 in by_audience, 0 in by_audience, others) == (True, False, 1)


def test_one_message_s_counts_are_recorded_in_its_transaction(audiences, services):
    pipe = services.redis.pipeline()
    audiences.record({(1, Skip.ANONYMOUS): 1}, pipe)
    assert audiences.all() == {}
    pipe.execute()
    assert audiences.all() == {Skip.ANONYMOUS: ({1: 1}, 0)}


def test_fields_that_are_no_audience_are_ignored(audiences, services):
    services.redis.hset(f"{SKIPPED}:{Skip.ANONYMOUS}", mapping={"x": "1", "2": "many", "3": "4"})
    assert audiences.all() == {Skip.ANONYMOUS: ({3: 4, 2: 0}, 0)}
