"""The figures of a stream's row on the Streams page."""

import pytest

from schemas.quotas import Quota
from worker.config import read_settings
from worker.dashboard.streams import StreamRow
from worker.flow.circuit_breakers import OPERATOR
from worker.services import Services


@pytest.fixture
def services(redis, clock):
    return Services(redis, read_settings({}), clock=clock)


@pytest.fixture
def row(services, stream, clock):
    """The row of a stream with 600 records left, which took 60 a second in each complete minute."""
    services.registry.configure(name=stream.configuration)
    services.registry.connect(
        audience_id=1, configuration=stream.configuration, delivery_stream_name=stream.name
    )
    services.counters.enqueued(stream, 600)
    for minutes in range(60):
        services.history.record(stream, services.redis, delivered=3_600, size=7_200)
        if minutes < 59:
            clock.advance(60)

    def read():
        (status,) = services.status.read(lambda queues: dict.fromkeys(queues, 0)).rows
        history = services.history.of([stream])[stream]
        return StreamRow(status, history, Quota(records=600, requests=10, bytes=1_200), oldest_seconds=None)

    return read


def test_a_rate_is_of_the_last_complete_minutes(row):
    assert row().delivered_per_second == 60


def test_the_share_of_the_quota_is_that_of_the_limit_which_is_nearer(row):
    assert row().quota_used == 0.1


def test_the_time_to_drain_is_the_backlog_at_the_present_rate(row):
    assert row().drain_seconds == 10


def test_a_paused_stream_has_no_time_to_drain(row, services, stream):
    services.circuit_breakers.pause(stream, OPERATOR)
    assert row().drain_seconds is None
