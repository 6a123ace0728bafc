"""System alerts: bounded, newest first, with the fields of the contract, and none of them twice."""

import json

import pytest
from clock import NOON

from worker.errors import NotRegistered
from worker.failures import alerts as alerts_module
from worker.failures.alert_types import AlertType, Failure
from worker.failures.alerts import ALERTS, COOLDOWN_SECONDS, COOLDOWNS, AlertState
from worker.queues import Stream

FAILURE = Failure(AlertType.ACCESS_DENIED, "AccessDeniedException", "attach the policy")


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
        dead_letter_id="letter",
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
        "dead_letter_id": "letter",
    }


def test_the_newest_comes_first(alerts, clock):
    alerts.raise_alert(FAILURE)
    clock.advance(1)
    alerts.raise_alert(FAILURE)
    newest, oldest = alerts.all()
    assert newest.raised_at > oldest.raised_at
    assert clock() == NOON + 1


def test_the_list_is_bounded_and_the_oldest_go(alerts, monkeypatch):
    monkeypatch.setattr(alerts_module, "MAX_ALERTS", 3)
    for number in range(5):
        alerts.raise_alert(FAILURE, records=number)
    assert [alert.records for alert in alerts.all()] == [4, 3, 2]


def test_a_stream_s_trouble_is_told_once_in_a_quarter_of_an_hour(alerts, redis, stream):
    assert alerts.start_cooldown(stream.queue)
    assert not alerts.start_cooldown(stream.queue)
    assert redis.ttl(f"{COOLDOWNS}:{stream.queue}") == COOLDOWN_SECONDS == 900


def test_after_that_it_is_told_again(alerts, redis, stream):
    alerts.start_cooldown(stream.queue)
    redis.expire(f"{COOLDOWNS}:{stream.queue}", 0)
    assert alerts.start_cooldown(stream.queue)


def test_another_stream_s_trouble_is_told_all_the_same(alerts, stream):
    alerts.start_cooldown(stream.queue)
    assert alerts.start_cooldown(Stream("other", stream.region, stream.name).queue)


def test_an_alert_can_be_acknowledged(alerts):
    alerts.raise_alert(FAILURE)
    (alert,) = alerts.all()
    assert alert.id not in alerts.states()
    alerts.acknowledge(alert.id)
    assert alerts.states() == {alert.id: AlertState.ACKNOWLEDGED}


def test_an_alert_that_is_not_there_cannot(alerts):
    with pytest.raises(NotRegistered, match="list them: audience-firehose alerts"):
        alerts.acknowledge("unknown")


def test_all_open_ones_can_be_acknowledged_at_once(alerts):
    for letter in ("one", "two", "three"):
        alerts.raise_alert(FAILURE, dead_letter_id=letter)
    alerts.resolve(["two"])
    assert alerts.acknowledge_all() == 2
    assert sorted(alerts.states().values()) == ["acknowledged", "acknowledged", "resolved"]


def test_an_alert_is_resolved_with_its_dead_letter(alerts):
    alerts.raise_alert(FAILURE, dead_letter_id="letter")
    alerts.raise_alert(FAILURE, dead_letter_id="another")
    alerts.resolve(["letter"])
    resolved = [alert.dead_letter_id for alert in alerts.all() if alert.id in alerts.states()]
    assert resolved == ["letter"]


def test_what_was_said_of_trimmed_alerts_does_not_pile_up(alerts, redis, monkeypatch):
    monkeypatch.setattr(alerts_module, "MAX_ALERTS", 3)
    for _ in range(10):
        alerts.raise_alert(FAILURE)
        alerts.acknowledge_all()
    assert alerts.states().keys() == {alert.id for alert in alerts.all()}
