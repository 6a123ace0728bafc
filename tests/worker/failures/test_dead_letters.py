"""Dead letters, and dead-lettering, which stores one and raises its alert: both or neither, and once."""

from dataclasses import replace

import pytest
from redis.exceptions import ConnectionError as RedisConnectionError

from worker.errors import NotRegistered
from worker.failures.alert_types import AlertType, Failure
from worker.failures.dead_lettering import Undeliverable
from worker.failures.dead_letters import Message

FAILURE = Failure(AlertType.RETRY_LIMIT_EXCEEDED, "InternalFailure", "given up")


@pytest.fixture
def letters(services):
    return services.dead_letters


def undeliverable(stream, identifier="1", alert_type=AlertType.RETRY_LIMIT_EXCEEDED, records=2):
    return Undeliverable(
        id=identifier,
        message=Message(stream.task, stream.queue, {"records": ["secretive"]}, ["argument"]),
        failure=FAILURE._replace(alert_type=alert_type),
        records=records,
        stream=stream,
        connection_ids={"2-b", "1-a"},
        audience_ids={2, 1},
        attempts=4,
    )


def test_a_letter_tells_what_its_alert_tells_and_keeps_the_message(services, letters, stream):
    services.dead_lettering.dead_letter(undeliverable(stream))
    (letter,), (alert,) = letters.all(), services.alerts.all()
    assert (letter.id, alert.dead_letter_id) == ("1", "1")
    assert (letter.type, letter.error_code, letter.message) == (alert.type, alert.error_code, alert.message)
    assert (letter.attempts, letter.records) == (alert.attempts, alert.records) == (4, 2)
    assert (letter.connection_ids, letter.audience_ids) == (["1-a", "2-b"], [1, 2])
    assert letter.stream == stream
    assert letter.raised_at == "2023-11-14T22:13:20.000+00:00"
    kept = Message(stream.task, stream.queue, {"records": ["secretive"]}, ["argument"])
    assert letters.message(letter) == kept


def test_what_is_told_does_not_show_the_records(services, letters, stream):
    services.dead_lettering.dead_letter(undeliverable(stream))
    (letter,) = letters.all()
    assert "secretive" not in repr(letter)
    assert "secretive" not in repr(letters.message(letter))
    assert "secretive" not in repr(services.alerts.all())


def test_burying_twice_is_burying_once(services, letters, stream):
    services.dead_lettering.dead_letter(undeliverable(stream))
    services.dead_lettering.dead_letter(undeliverable(stream))
    assert (len(letters.all()), len(services.alerts.all())) == (1, 1)


def test_where_the_alert_cannot_be_raised_no_letter_is_kept(services, letters, stream, monkeypatch):
    def refuse(*_, **__):
        raise RedisConnectionError("gone")

    with monkeypatch.context() as broken, pytest.raises(RedisConnectionError):
        broken.setattr(services.alerts, "raise_alert", refuse)
        services.dead_lettering.dead_letter(undeliverable(stream))
    assert not letters.all()
    assert not services.alerts.all()


def test_where_the_letter_cannot_be_kept_no_alert_is_raised(services, letters, stream, redis, monkeypatch):
    def refuse(*_, **__):
        raise RedisConnectionError("gone")

    with monkeypatch.context() as broken, pytest.raises(RedisConnectionError):
        broken.setattr(type(redis.pipeline()), "execute", refuse)
        services.dead_lettering.dead_letter(undeliverable(stream))
    assert not services.alerts.all()
    assert not letters.all()


def test_where_redis_is_away_neither_is_there(services, letters, stream, redis_server):
    redis_server.connected = False
    with pytest.raises(RedisConnectionError):
        services.dead_lettering.dead_letter(undeliverable(stream))
    redis_server.connected = True
    assert not letters.all()
    assert not services.alerts.all()


def test_the_oldest_comes_first(services, letters, stream, clock):
    services.dead_lettering.dead_letter(undeliverable(stream, "late"))
    clock.advance(-60)
    services.dead_lettering.dead_letter(undeliverable(stream, "early"))
    assert [letter.id for letter in letters.all()] == ["early", "late"]


def test_a_removed_letter_is_gone_and_so_is_its_message(services, letters, stream, redis):
    services.dead_lettering.dead_letter(undeliverable(stream))
    (letter,) = letters.all()
    letters.remove(letter)
    assert not redis.keys("audience:dead-letters*")
    with pytest.raises(NotRegistered, match="just been replayed or discarded"):
        letters.message(letter)
    with pytest.raises(NotRegistered, match="list them: audience-firehose dead-letters"):
        letters.get(letter.id)


def test_a_letter_by_its_id(services, letters, stream):
    services.dead_lettering.dead_letter(undeliverable(stream))
    assert letters.get("1") == letters.all()[0]


@pytest.mark.parametrize("alert_type", AlertType)
def test_only_what_firehose_will_never_take_cannot_be_replayed(services, letters, stream, alert_type):
    services.dead_lettering.dead_letter(undeliverable(stream, alert_type=alert_type))
    assert letters.get("1").replayable == (alert_type != AlertType.RECORD_TOO_LARGE)


def test_a_letter_is_replayed_under_the_same_id_however_often(services, letters, stream):
    services.dead_lettering.dead_letter(undeliverable(stream, "1"))
    services.dead_lettering.dead_letter(undeliverable(stream, "2"))
    one, two = letters.all()
    assert one.replay_id == letters.get(one.id).replay_id != two.replay_id
    assert one.replay_id != one.id


def test_dead_records_are_counted_by_stream(services, letters, stream):
    services.dead_lettering.dead_letter(undeliverable(stream, "1", records=2))
    services.dead_lettering.dead_letter(undeliverable(stream, "2", records=3))
    other = stream._replace(name="other")
    services.dead_lettering.dead_letter(undeliverable(other, "3", records=1))
    services.dead_lettering.dead_letter(replace(undeliverable(stream, "4", records=7), stream=None))
    assert letters.records_by_stream() == {stream: 5, other: 1, None: 7}
