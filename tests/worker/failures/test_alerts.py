"""System alerts: newest first, aggregated, bounded, with the fields of the contract."""

import json

import pytest

from worker.errors import NotRegistered
from worker.failures import alerts as alerts_module
from worker.failures.alert_types import AlertType, Failure, Severity
from worker.failures.alerts import (
    ALERTS,
    COOLDOWN_SECONDS,
    COOLDOWNS,
    CURRENT,
    Alerts,
    AlertState,
    Cause,
)
from worker.queues import Stream

FAILURE = Failure(
    AlertType.ACCESS_DENIED, "AccessDeniedException", "attach the policy", "not authorized", "b0a1"
)
INVALID = Failure(AlertType.INVALID_CHANGE, "ValidationError", "1 of 1 invalid")


@pytest.fixture
def alerts(services):
    return services.alerts


def test_an_alert_has_the_fields_of_the_contract(alerts, redis, stream):
    alerts.raise_alert(
        FAILURE,
        stream=stream,
        connection_ids={"2-b", "1-a"},
        audience_ids={2, 1},
        attempts=3,
        records=7,
    )
    (entry,) = map(json.loads, redis.lrange(ALERTS, 0, -1))
    assert entry.pop("id")
    assert entry == {
        "type": "Access Denied",
        "severity": "fatal",
        "raised_at": "2023-11-14T22:13:20.000+00:00",
        "connection_ids": ["1-a", "2-b"],
        "audience_ids": [1, 2],
        "delivery_stream_name": "travel",
        "region": "us-east-1",
        "error_code": "AccessDeniedException",
        "message": "attach the policy",
        "attempts": 3,
        "records": 7,
        "dead_letter_id": None,
        "occurrences": 1,
        "last_raised_at": "2023-11-14T22:13:20.000+00:00",
        "aws_message": "not authorized",
        "request_id": "b0a1",
        "task": None,
        "task_id": None,
        "origin": None,
    }


def streams(count):
    return [Stream("main", "us-east-1", f"stream-{number}") for number in range(count)]


def end_window(redis):
    """End the time in which an alert repeats another."""
    redis.delete(*redis.keys(f"{CURRENT}:*"))


def test_the_newest_comes_first(alerts, clock):
    for stream in streams(2):
        alerts.raise_alert(FAILURE, stream=stream)
        clock.advance(1)
    assert [alert.delivery_stream_name for alert in alerts.all()] == ["stream-1", "stream-0"]


def test_a_warning_never_takes_the_place_of_a_fatal_alert_of_its_type(alerts, stream):
    alerts.raise_alert(FAILURE, stream=stream)
    alerts.raise_alert(FAILURE, stream=stream, severity=Severity.WARNING)
    alerts.raise_alert(FAILURE, stream=stream)
    assert [(alert.severity, alert.occurrences) for alert in alerts.all()] == [("warning", 1), ("fatal", 2)]


def test_an_alert_that_recurs_for_a_stream_is_one_entry_with_its_occurrences(alerts, stream, clock):
    alerts.raise_alert(
        FAILURE, stream=stream, records=2, audience_ids=[1], connection_ids=["1-a"], attempts=4
    )
    clock.advance(60)
    alerts.raise_alert(FAILURE, stream=stream, records=3, audience_ids=[2**60], connection_ids=["2-b"])
    (alert,) = alerts.all()
    assert (alert.occurrences, alert.records, alert.attempts) == (2, 5, 4)
    assert (alert.audience_ids, alert.connection_ids) == ([1, 2**60], ["1-a", "2-b"])
    assert (alert.raised_at[11:19], alert.last_raised_at[11:19]) == ("22:13:20", "22:14:20")


def test_another_type_or_another_stream_is_another_entry(alerts, stream):
    alerts.raise_alert(FAILURE, stream=stream)
    alerts.raise_alert(INVALID, stream=stream)
    alerts.raise_alert(FAILURE, stream=stream._replace(configuration="other"))
    assert [alert.occurrences for alert in alerts.all()] == [1, 1, 1]


def test_invalid_changes_of_one_host_are_one_entry_that_names_the_last_message(alerts):
    alerts.raise_alert(INVALID, records=1, cause=Cause("audience.forward", "one", "gen1@shop"))
    alerts.raise_alert(INVALID, records=1, cause=Cause("audience.forward", "two", "gen2@shop"))
    alerts.raise_alert(INVALID, records=1, cause=Cause("audience.forward", "three", "gen1@till"))
    till, shop = alerts.all()
    assert (shop.occurrences, shop.task_id, shop.origin) == (2, "two", "gen2@shop")
    assert (till.occurrences, till.task, till.task_id) == (1, "audience.forward", "three")


def test_the_window_of_an_alert_is_15_minutes(alerts, stream, redis):
    alerts.raise_alert(FAILURE, stream=stream)
    assert redis.ttl(f"{CURRENT}:{FAILURE.alert_type}:{stream.queue}") == 900
    end_window(redis)
    alerts.raise_alert(FAILURE, stream=stream)
    assert [alert.occurrences for alert in alerts.all()] == [1, 1]


def test_an_acknowledged_alert_is_not_repeated_but_raised_anew(alerts, stream):
    alerts.raise_alert(FAILURE, stream=stream)
    alerts.acknowledge_all()
    alerts.raise_alert(FAILURE, stream=stream)
    new, old = alerts.all()
    assert (new.occurrences, old.occurrences) == (1, 1)
    assert alerts.states() == {old.id: AlertState.ACKNOWLEDGED}


def test_an_entry_that_another_process_changes_meanwhile_is_counted_right(alerts, stream, redis, monkeypatch):
    alerts.raise_alert(FAILURE, stream=stream, records=1)
    get = redis.get

    def interrupted(key):
        found = get(key)
        monkeypatch.setattr(redis, "get", get)
        alerts.raise_alert(FAILURE, stream=stream, records=10)
        return found

    monkeypatch.setattr(redis, "get", interrupted)
    alerts.raise_alert(FAILURE, stream=stream, records=100)
    (alert,) = alerts.all()
    assert (alert.occurrences, alert.records) == (3, 111)


def test_a_corrupt_entry_prevents_neither_the_list_nor_the_next_alert(alerts, stream, redis):
    alerts.raise_alert(FAILURE, stream=stream)
    redis.lset(ALERTS, 0, "{")
    redis.set(f"{CURRENT}:{FAILURE.alert_type}:{stream.queue}", "{")
    alerts.raise_alert(FAILURE, stream=stream)
    assert [alert.occurrences for alert in alerts.all()] == [1]


def test_an_entry_of_an_older_version_is_read_and_is_resolved_with_its_dead_letter(alerts, redis):
    old = {
        "id": "old",
        "type": "Access Denied",
        "severity": "fatal",
        "raised_at": "2023-11-14T22:13:20.000+00:00",
        "connection_ids": [],
        "audience_ids": [],
        "delivery_stream_name": "travel",
        "region": "us-east-1",
        "error_code": "AccessDenied",
        "message": "no",
        "attempts": 1,
        "records": 7,
        "dead_letter_id": "letter",
    }
    redis.lpush(ALERTS, json.dumps(old), json.dumps(old | {"id": "another", "dead_letter_id": "another"}))
    assert [alert.occurrences for alert in alerts.all()] == [1, 1]
    alerts.resolve(["letter"])
    assert alerts.states() == {"old": AlertState.RESOLVED}


def test_the_list_is_bounded_and_the_oldest_warnings_go(alerts, monkeypatch):
    monkeypatch.setattr(alerts_module, "MAX_ALERTS", 3)
    for stream in streams(5):
        alerts.raise_alert(INVALID, stream=stream)
    assert [alert.delivery_stream_name for alert in alerts.all()] == ["stream-4", "stream-3", "stream-2"]


def test_an_open_fatal_alert_is_never_pushed_out(alerts, monkeypatch):
    monkeypatch.setattr(alerts_module, "MAX_ALERTS", 3)
    fatal, acknowledged, *others = streams(8)
    alerts.raise_alert(FAILURE, stream=acknowledged)
    alerts.acknowledge_all()
    alerts.raise_alert(FAILURE, stream=fatal)
    for stream in others:
        alerts.raise_alert(INVALID, stream=stream)
    assert [alert.delivery_stream_name for alert in alerts.all()] == ["stream-7", "stream-6", "stream-0"]
    assert not alerts.states()


def test_a_cooldown_suppresses_further_warnings_of_a_stream_for_15_minutes(alerts, redis, stream):
    assert alerts.start_cooldown(stream.queue)
    assert not alerts.start_cooldown(stream.queue)
    assert redis.ttl(f"{COOLDOWNS}:{stream.queue}") == COOLDOWN_SECONDS == 900


def test_after_its_cooldown_a_warning_is_raised_again(alerts, redis, stream):
    alerts.start_cooldown(stream.queue)
    redis.expire(f"{COOLDOWNS}:{stream.queue}", 0)
    assert alerts.start_cooldown(stream.queue)


def test_a_cooldown_suppresses_no_other_stream_s_warning(alerts, stream):
    alerts.start_cooldown(stream.queue)
    assert alerts.start_cooldown(Stream("other", stream.region, stream.name).queue)


def test_an_alert_can_be_acknowledged(alerts):
    alerts.raise_alert(FAILURE)
    (alert,) = alerts.all()
    assert alert.id not in alerts.states()
    alerts.acknowledge(alert.id)
    assert alerts.states() == {alert.id: AlertState.ACKNOWLEDGED}


def test_an_unknown_alert_cannot_be_acknowledged(alerts):
    with pytest.raises(NotRegistered, match="list them: audience-firehose alerts"):
        alerts.acknowledge("unknown")


def test_all_open_ones_can_be_acknowledged_at_once(alerts):
    one, *others = streams(3)
    alerts.raise_alert(FAILURE, stream=one)
    alerts.acknowledge_all()
    for stream in others:
        alerts.raise_alert(FAILURE, stream=stream)
    assert alerts.acknowledge_all() == 2
    assert list(alerts.states().values()) == ["acknowledged"] * 3


def test_the_states_of_trimmed_alerts_are_removed(alerts, redis, monkeypatch):
    monkeypatch.setattr(alerts_module, "MAX_ALERTS", 3)
    for stream in streams(10):
        alerts.raise_alert(FAILURE, stream=stream)
        alerts.acknowledge_all()
    assert alerts.states().keys() == {alert.id for alert in alerts.all()}


def test_an_alert_that_is_raised_again_is_read_again(alerts, stream):
    alerts.raise_alert(FAILURE, stream=stream, records=1)
    assert [alert.records for alert in alerts.all()] == [1]
    alerts.raise_alert(FAILURE, stream=stream, records=2)
    assert [(alert.records, alert.occurrences) for alert in alerts.all()] == [(3, 2)]


def test_open_alerts_are_counted_by_severity_as_they_come_and_go(alerts, stream):
    assert not alerts.count_open()
    for name in ("a", "b"):
        alerts.raise_alert(FAILURE, stream=stream._replace(name=name))
    severity = alerts.all()[0].severity
    assert alerts.count_open() == {severity: 2}
    alerts.acknowledge(alerts.all()[0].id)
    assert alerts.count_open() == {severity: 1}


def test_a_fatal_alert_is_counted_beside_the_warnings_of_its_type(alerts, stream):
    denied = Failure(AlertType.ACCESS_DENIED, "AccessDeniedException", "no")
    alerts.raise_alert(denied, stream=stream, severity=Severity.WARNING)
    alerts.raise_alert(denied, stream=stream._replace(name="newest"), severity=Severity.WARNING)
    assert alerts.count_open() == {Severity.WARNING: 2}
    alerts.raise_alert(denied, stream=stream)
    assert alerts.count_open() == {Severity.WARNING: 2, Severity.FATAL: 1}


def test_open_fatal_alerts_above_the_bound_are_looked_through_once_in_many_new_alerts(
    real_redis, clock, monkeypatch
):
    monkeypatch.setattr(alerts_module, "MAX_ALERTS", 200)
    alerts = Alerts(real_redis, clock)
    for stream in streams(240):
        alerts.raise_alert(FAILURE, stream=stream)
    real_redis.config_resetstat()
    for stream in streams(260)[240:]:
        alerts.raise_alert(FAILURE, stream=stream)
    assert len(alerts.all()) == 260
    assert real_redis.info("commandstats")["cmdstat_lindex"]["calls"] <= 10 * 260
