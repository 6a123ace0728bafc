"""Troubles that are seen from outside the workers, over a fake Redis and a clock that the test moves."""

import pytest
from kombu.exceptions import OperationalError

from worker.broker.client import Backlog
from worker.config import read_settings
from worker.dashboard.watch import Watch
from worker.failures.alert_types import AlertType
from worker.queues import CHANGES_QUEUE, DEFAULT_QUEUE, Stream
from worker.services import Services

STREAM = Stream("main", "us-east-1", "travel")


@pytest.fixture
def queues():
    """By queue, its backlog; a test fills it."""
    return {}


@pytest.fixture
def parts(redis, secret_key, clock):

    services = Services(
        redis, read_settings({"AUDIENCE_SECRET_KEY": secret_key}), clock=clock, monotonic=clock
    )
    services.registry.configure(name="main")
    services.registry.connect(audience_id=1, configuration="main", delivery_stream_name=STREAM.name)
    return services


@pytest.fixture
def misrouted():
    """Queues that hold changes of a sender who forgot `queue=`; a test fills it."""
    return set()


@pytest.fixture
def watch(parts, queues, misrouted, clock):
    def backlogs(names):
        return {name: queues.get(name, Backlog(0)) for name in names}

    return Watch(
        registry=parts.registry,
        circuit_breakers=parts.circuit_breakers,
        queue_heads=parts.queue_heads,
        alerts=parts.alerts,
        backlogs=backlogs,
        is_misrouted=misrouted.__contains__,
        clock=clock,
    )


@pytest.fixture
def raised(parts):
    return lambda: [(alert.type, alert.severity) for alert in parts.alerts.all()]


def test_messages_that_no_worker_reserves_for_a_minute_raise_no_workers(watch, queues, clock, raised):
    queues[CHANGES_QUEUE] = Backlog(3, "first")
    watch.run(live_workers=0)
    clock.advance(59)
    watch.run(live_workers=0)
    assert raised() == []

    clock.advance(1)
    watch.run(live_workers=0)

    assert raised() == [("No Workers", "fatal")]


def test_no_workers_is_raised_once_in_a_cooldown(watch, queues, clock, raised):
    queues[CHANGES_QUEUE] = Backlog(3, "first")
    for _ in range(5):
        watch.run(live_workers=0)
        clock.advance(60)

    assert len(raised()) == 1


def test_a_queue_that_moves_is_being_worked_on(watch, queues, clock, raised):
    for number in range(5):
        queues[CHANGES_QUEUE] = Backlog(3, f"message {number}")
        watch.run(live_workers=0)
        clock.advance(60)

    assert raised() == []


def test_a_stream_that_is_paused_waits_for_its_operator_and_not_for_workers(
    watch, queues, clock, raised, parts
):
    parts.circuit_breakers.pause(STREAM, "operator")
    queues[STREAM.queue] = Backlog(3, "first")
    watch.run(live_workers=0)
    clock.advance(60)
    watch.run(live_workers=0)

    assert raised() == []


def test_a_stream_may_wait_for_its_quota_while_workers_answer(watch, queues, clock, raised):
    queues[STREAM.queue] = Backlog(3, "first")
    watch.run(live_workers=2)
    clock.advance(60)
    watch.run(live_workers=2)
    assert raised() == []

    watch.run(live_workers=0)
    assert raised() == [("No Workers", "fatal")]


def test_workers_that_answer_and_reserve_no_changes_raise_no_workers_too(watch, queues, clock, raised):
    queues[CHANGES_QUEUE] = Backlog(3, "first")
    watch.run(live_workers=2)
    clock.advance(60)
    watch.run(live_workers=2)

    assert raised() == [("No Workers", "fatal")]


def test_what_other_applications_have_in_celerys_default_queue_is_no_trouble(watch, queues, raised):
    queues[DEFAULT_QUEUE] = Backlog(7, "first")
    watch.run(live_workers=1)

    assert raised() == []


def test_messages_in_celerys_default_queue_raise_an_alert(watch, queues, misrouted, raised, parts):
    queues[DEFAULT_QUEUE] = Backlog(7, "first")
    misrouted.add(DEFAULT_QUEUE)
    watch.run(live_workers=1)

    assert raised() == [(AlertType.INVALID_CHANGE, "warning")]
    assert "7 messages" in parts.alerts.all()[0].message


def test_a_broker_that_is_away_ends_nothing(parts, clock, raised):
    def away(names):
        raise OperationalError("away")

    Watch(
        registry=parts.registry,
        circuit_breakers=parts.circuit_breakers,
        queue_heads=parts.queue_heads,
        alerts=parts.alerts,
        backlogs=away,
        is_misrouted=away,
        clock=clock,
    ).run(live_workers=0)

    assert raised() == []


def test_of_a_broker_that_tells_only_lengths_a_minute_without_workers_raises_no_workers(
    watch, queues, clock, raised
):
    queues[CHANGES_QUEUE] = Backlog(3)
    watch.run(live_workers=0)
    clock.advance(59)
    watch.run(live_workers=0)
    assert raised() == []
    clock.advance(1)
    watch.run(live_workers=0)
    assert raised() == [("No Workers", "fatal")]


def test_of_a_broker_that_tells_only_lengths_a_minute_counts_from_the_last_worker_or_empty_queue(
    watch, queues, clock, raised
):
    queues[CHANGES_QUEUE] = Backlog(3)
    watch.run(live_workers=0)
    clock.advance(59)
    watch.run(live_workers=1)
    clock.advance(59)
    watch.run(live_workers=0)
    clock.advance(59)
    queues[CHANGES_QUEUE] = Backlog(0)
    watch.run(live_workers=0)
    queues[CHANGES_QUEUE] = Backlog(1)
    clock.advance(59)
    watch.run(live_workers=0)
    clock.advance(59)
    watch.run(live_workers=0)
    assert raised() == []
