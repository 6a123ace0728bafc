"""Dead letters, and the burial that stores one and raises its alert: both or neither, and once."""

from dataclasses import replace

import pytest
from redis.exceptions import ConnectionError as RedisConnectionError

from worker.burial import Case, bury
from worker.errors import NotRegistered
from worker.failures import AlertType, Failure
from worker.state.dead_letters import Message

FAILURE = Failure(AlertType.RETRY_LIMIT_EXCEEDED, "InternalFailure", "given up")


@pytest.fixture
def letters(state):
    return state.dead_letters


def case(stream, identifier="1", alert_type=AlertType.RETRY_LIMIT_EXCEEDED, records=2):
    return Case(
        id=identifier,
        message=Message(stream.task, stream.queue, {"records": ["secretive"]}, ["argument"]),
        failure=FAILURE._replace(alert_type=alert_type),
        records=records,
        stream=stream,
        connection_ids={"2-b", "1-a"},
        audience_ids={2, 1},
        attempts=4,
    )


def test_a_letter_tells_what_its_alert_tells_and_keeps_the_message(state, letters, stream):
    bury(state, case(stream))
    (letter,), (alert,) = letters.all(), state.alerts.all()
    assert (letter.id, alert.dead_letter_id) == ("1", "1")
    assert (letter.type, letter.error_code, letter.message) == (alert.type, alert.error_code, alert.message)
    assert (letter.attempts, letter.records) == (alert.attempts, alert.records) == (4, 2)
    assert (letter.connection_ids, letter.audience_ids) == (["1-a", "2-b"], [1, 2])
    assert letter.stream == stream
    assert letter.raised_at == "2023-11-14T22:13:20.000+00:00"
    kept = Message(stream.task, stream.queue, {"records": ["secretive"]}, ["argument"])
    assert letters.message(letter) == kept


def test_what_is_told_does_not_show_the_records(state, letters, stream):
    bury(state, case(stream))
    (letter,) = letters.all()
    assert "secretive" not in repr(letter)
    assert "secretive" not in repr(letters.message(letter))
    assert "secretive" not in repr(state.alerts.all())


def test_burying_twice_is_burying_once(state, letters, stream):
    bury(state, case(stream))
    bury(state, case(stream))
    assert (len(letters.all()), len(state.alerts.all())) == (1, 1)


def test_where_the_alert_cannot_be_raised_no_letter_is_kept(state, letters, stream, monkeypatch):
    def refuse(*_, **__):
        raise RedisConnectionError("gone")

    with monkeypatch.context() as broken, pytest.raises(RedisConnectionError):
        broken.setattr(state.alerts, "raise_alert", refuse)
        bury(state, case(stream))
    assert not letters.all()
    assert not state.alerts.all()


def test_where_the_letter_cannot_be_kept_no_alert_is_raised(state, letters, stream, redis, monkeypatch):
    def refuse(*_, **__):
        raise RedisConnectionError("gone")

    with monkeypatch.context() as broken, pytest.raises(RedisConnectionError):
        broken.setattr(type(redis.pipeline()), "execute", refuse)
        bury(state, case(stream))
    assert not state.alerts.all()
    assert not letters.all()


def test_where_redis_is_away_neither_is_there(state, letters, stream, redis_server):
    redis_server.connected = False
    with pytest.raises(RedisConnectionError):
        bury(state, case(stream))
    redis_server.connected = True
    assert not letters.all()
    assert not state.alerts.all()


def test_the_oldest_comes_first(state, letters, stream, clock):
    bury(state, case(stream, "late"))
    clock.advance(-60)
    bury(state, case(stream, "early"))
    assert [letter.id for letter in letters.all()] == ["early", "late"]


def test_a_removed_letter_is_gone_and_so_is_its_message(state, letters, stream, redis):
    bury(state, case(stream))
    (letter,) = letters.all()
    letters.remove(letter)
    assert not redis.keys("audience:dead-letters*")
    with pytest.raises(NotRegistered, match="just been replayed or discarded"):
        letters.message(letter)
    with pytest.raises(NotRegistered, match="list them: audience-firehose dead-letters"):
        letters.get(letter.id)


def test_a_letter_by_its_id(state, letters, stream):
    bury(state, case(stream))
    assert letters.get("1") == letters.all()[0]


@pytest.mark.parametrize("alert_type", AlertType)
def test_only_what_firehose_will_never_take_cannot_be_replayed(state, letters, stream, alert_type):
    bury(state, case(stream, alert_type=alert_type))
    assert letters.get("1").replayable == (alert_type != AlertType.RECORD_TOO_LARGE)


def test_a_letter_is_replayed_under_the_same_id_however_often(state, letters, stream):
    bury(state, case(stream, "1"))
    bury(state, case(stream, "2"))
    one, two = letters.all()
    assert one.replay_id == letters.get(one.id).replay_id != two.replay_id
    assert one.replay_id != one.id


def test_dead_records_are_counted_by_stream(state, letters, stream):
    bury(state, case(stream, "1", records=2))
    bury(state, case(stream, "2", records=3))
    other = stream._replace(name="other")
    bury(state, case(other, "3", records=1))
    bury(state, replace(case(stream, "4", records=7), stream=None))
    assert letters.records_by_stream() == {stream: 5, other: 1, None: 7}
