"""The last hour of a stream, over a fake Redis and a clock that the test moves."""

import pytest

from worker.state.history import BUCKET_SECONDS, HISTORY, History


@pytest.fixture
def history(redis, clock):
    return History(redis, clock)


@pytest.fixture
def record(history, redis, stream):
    def record(**figures):
        history.record(stream, redis, **figures)

    return record


def test_records_are_counted_in_the_minute_of_their_call(history, record, clock, stream):
    record(delivered=5, refused=2, size=512)
    clock.advance(60)
    record(delivered=7)

    found = history.of([stream])[stream]

    assert len(found.delivered) == 60
    assert list(found.delivered[-2:]) == [5, 7]
    assert list(found.refused[-2:]) == [2, 0]
    assert list(found.bytes[-2:]) == [512, 0]


def test_minutes_of_the_hour_before_are_in_their_place(history, record, clock, stream):
    clock.now = 3_600 * 500_000 - 1
    record(delivered=3)
    clock.advance(1)
    record(delivered=4)

    assert list(history.of([stream])[stream].delivered[-3:]) == [0, 3, 4]


def test_what_is_older_than_an_hour_is_not_shown(history, record, clock, stream):
    record(delivered=3)
    clock.advance(3_600)

    assert sum(history.of([stream])[stream].delivered) == 0


def test_old_figures_expire(record, redis):
    record(delivered=1)

    (key,) = redis.keys(f"{HISTORY}:*")
    assert 3_600 < redis.ttl(key) <= 7_260


def test_quantiles_are_upper_bounds_of_buckets_weighted_by_records(history, record, stream):
    record(delivered=98, seconds=0.02)
    record(delivered=2, seconds=4.0)

    found = history.of([stream])[stream]

    assert found.quantile_seconds(0.5) == 0.025
    assert found.quantile_seconds(0.99) == 5


def test_without_deliveries_there_is_no_quantile(history, stream):
    assert history.of([stream])[stream].quantile_seconds(0.99) is None


def test_delivery_seconds_of_all_streams_are_cumulative(history, record):
    record(delivered=2, seconds=0.004)
    record(delivered=1, seconds=1e6)
    record(delivered=9)

    found = history.delivery_seconds()

    assert (found.cumulative[0], found.cumulative[-1]) == (2, 3)
    assert len(found.cumulative) == len(BUCKET_SECONDS)
    assert found.total_seconds == pytest.approx(2 * 0.004 + 1e6)


def test_a_clock_that_went_back_counts_as_no_time(history, record):
    record(delivered=1, seconds=-3.0)

    assert history.delivery_seconds().total_seconds == 0
