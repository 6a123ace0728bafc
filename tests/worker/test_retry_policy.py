"""The retry policy: waits double up to a bound, and circuit breakers stay OPEN for as long, less jitter."""

import pytest

from worker.retry_policy import (
    OPEN_DOUBLINGS,
    RETRY_BACKOFF_MAX_SECONDS,
    RETRY_BACKOFF_SECONDS,
    RETRY_MAX,
    longest_open,
    longest_wait,
    open_durations,
)

WAITS = [(0, 1), (1, 2), (2, 4), (9, 512), (10, 600), (75, 600), (1000, 600)]


@pytest.mark.parametrize(("retries", "seconds"), WAITS)
def test_the_longest_wait_doubles_with_each_retry_up_to_ten_minutes(retries, seconds):
    assert longest_wait(retries, RETRY_BACKOFF_SECONDS, RETRY_BACKOFF_MAX_SECONDS) == seconds


def test_the_default_retries_go_on_for_more_than_five_hours_on_average():
    waits = [
        longest_wait(retries, RETRY_BACKOFF_SECONDS, RETRY_BACKOFF_MAX_SECONDS)
        for retries in range(RETRY_MAX)
    ]
    assert sum(waits) / 2 > 5 * 3600


def test_a_breaker_is_open_for_twice_as_long_after_each_failure_up_to_a_bound():
    durations = open_durations(8, 60, jitter=lambda low, high: high)
    assert durations[:5] == [8, 16, 32, 60, 60]
    assert len(durations) == OPEN_DOUBLINGS


def test_a_breaker_is_open_no_longer_than_batches_wait_and_than_a_minute():
    assert [longest_open(seconds) for seconds in (5, 600)] == [5, 60]


def test_jitter_takes_up_to_half_of_the_time_for_which_a_breaker_is_open():
    assert open_durations(8, 60, jitter=lambda low, high: low)[:4] == [4, 8, 16, 30]
