"""The retry policy: all numbers that say when a delivery is tried again. Pure, and tested by a table.

Celery draws the wait before a retry itself: full jitter, so a time between 0 and `longest_wait`.
"""

from collections.abc import Callable

RETRY_BACKOFF_SECONDS = 1
"""Before the first retry, at most; each further one doubles it."""
RETRY_BACKOFF_MAX_SECONDS = 600
RETRY_MAX = 75
"""Full jitter waits half the backoff on average: ten doubling waits (511 s) and 65 of up
to 600 s make 5.6 hours in the mean, and with a standard deviation of 0.4 hours fewer than
one batch in ten thousand gives up before 4 hours."""
OPEN_MAX_SECONDS = 60
"""The longest time that a circuit breaker is OPEN before a probe. A request a minute burdens nobody."""
OPEN_DOUBLINGS = 16
"""The time that a circuit breaker is OPEN doubles so often at most, while probe after probe fails."""
REQUEUE_PAUSE_SECONDS = 1.0
"""A worker waits this long before it requeues a message that it cannot handle now, so that the message does
not spin."""


def longest_wait(retries: int, backoff_seconds: float, longest_seconds: float) -> float:
    """The longest wait (seconds) before a batch is tried again that was retried so often before."""
    return min(backoff_seconds * 2.0**retries, longest_seconds)


def longest_open(backoff_max_seconds: float) -> float:
    """The longest time (seconds) that a circuit breaker is OPEN, where batches wait so long at most."""
    return min(backoff_max_seconds, OPEN_MAX_SECONDS)


def open_durations(
    first_seconds: float, longest_seconds: float, jitter: Callable[[float, float], float]
) -> list[float]:
    """How long a circuit breaker is OPEN after the first, second … failure in a row, in seconds.

    `jitter(low, high)` draws the part of the full time, between a half and all of it.
    """
    return [
        longest_wait(failures, first_seconds, longest_seconds) * jitter(0.5, 1)
        for failures in range(OPEN_DOUBLINGS)
    ]
