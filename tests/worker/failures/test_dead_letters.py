"""Dead letters, and dead-lettering, which stores one and raises its alert: both or neither, and once."""

from dataclasses import replace

import pytest
from fakeredis import FakeRedis
from redis.exceptions import ConnectionError as RedisConnectionError

from worker.errors import NotRegistered
from worker.failures.alert_types import AlertType, Failure
from worker.failures.alerts import DEAD_LETTERS, DEAD_RECORDS
from worker.failures.dead_lettering import Undeliverable
from worker.failures.dead_letters import BYTES, Message, Query

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


def test_the_bytes_that_a_letter_refers_to_are_removed_with_it(services, letters, stream, redis_server):
    bytes_of = FakeRedis(server=redis_server).get
    malformed = replace(undeliverable(stream), stream=None)
    for parts in ([b"\xff\x00", b"secretive"], [b"\xff\x00secr", b"etive"]):
        kept = letters.keep_bytes("1", parts)
        assert (bytes_of(kept.key), kept.length) == (b"\xff\x00secretive", 11)
    services.dead_lettering.dead_letter(malformed)
    letters.keep_bytes("2", [b"of another letter"])
    services.dead_lettering.dead_letter(replace(malformed, id="2"))
    services.dead_lettering.discard(letters.get("1"))
    assert bytes_of(kept.key) is None
    assert [bytes_of(key) for key in services.redis.keys(f"{BYTES}:*")] == [b"of another letter"]


def test_a_dead_letter_has_the_fields_of_its_alert_and_keeps_the_message(services, letters, stream):
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


def test_the_repr_of_a_dead_letter_does_not_show_its_records(services, letters, stream):
    services.dead_lettering.dead_letter(undeliverable(stream))
    (letter,) = letters.all()
    assert "secretive" not in repr(letter)
    assert "secretive" not in repr(letters.message(letter))
    assert "secretive" not in repr(services.alerts.all())


def test_dead_lettering_twice_stores_one_dead_letter(services, letters, stream):
    services.dead_lettering.dead_letter(undeliverable(stream))
    services.dead_lettering.dead_letter(undeliverable(stream))
    assert (len(letters.all()), len(services.alerts.all())) == (1, 1)


def test_without_redis_neither_dead_letter_nor_alert_is_stored(services, letters, stream, redis_server):
    redis_server.connected = False
    with pytest.raises(RedisConnectionError):
        services.dead_lettering.dead_letter(undeliverable(stream))
    redis_server.connected = True
    assert not letters.all()
    assert not services.alerts.all()


def test_dead_letters_are_listed_oldest_first(services, letters, stream, clock):
    services.dead_lettering.dead_letter(undeliverable(stream, "late"))
    clock.advance(-60)
    services.dead_lettering.dead_letter(undeliverable(stream, "early"))
    assert [letter.id for letter in letters.all()] == ["early", "late"]


def test_a_removed_letter_is_gone_and_so_is_its_message(services, letters, stream, redis):
    services.dead_lettering.dead_letter(undeliverable(stream))
    (letter,) = letters.all()
    letters.remove(letter)
    assert not redis.keys("audience:dead-letters*")
    assert not redis.keys("audience:alerts:by-letter") + redis.keys("audience:alerts:pending-letters")
    with pytest.raises(NotRegistered, match="just been replayed or discarded"):
        letters.message(letter)
    with pytest.raises(NotRegistered, match="list them: audience-firehose dead-letters"):
        letters.get(letter.id)


def test_a_dead_letter_is_found_by_its_id(services, letters, stream):
    services.dead_lettering.dead_letter(undeliverable(stream))
    assert letters.get("1") == letters.all()[0]


@pytest.mark.parametrize("alert_type", AlertType)
def test_only_dead_letters_that_firehose_can_never_accept_cannot_be_replayed(
    services, letters, stream, alert_type
):
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


def test_an_alert_is_resolved_with_the_last_of_its_dead_letters(services, letters, stream):
    for identifier in "123":
        services.dead_lettering.dead_letter(undeliverable(stream, identifier))
    (alert,) = services.alerts.all()
    assert (alert.occurrences, alert.records, alert.dead_letter_id) == (3, 6, "3")
    one, two, three = letters.all()
    services.dead_lettering.discard(one)
    letters.remove(two)
    assert not services.alerts.states()
    services.dead_lettering.discard(three)
    assert services.alerts.states() == {alert.id: "resolved"}


def test_an_alert_names_the_message_and_the_letter_of_the_same_occurrence(services, stream):
    for identifier, message in (("1", "first"), ("2", "second")):
        failure = FAILURE._replace(message=message)
        services.dead_lettering.dead_letter(replace(undeliverable(stream, identifier), failure=failure))
    (alert,) = services.alerts.all()
    assert (alert.message, alert.dead_letter_id) == ("second", "2")


def test_discarded_records_are_counted_once_and_only_where_the_letter_was_there(services, letters, stream):
    for identifier in "123":
        services.dead_lettering.dead_letter(undeliverable(stream, identifier))
    found = sorted(letters.all(), key=lambda letter: letter.id)
    letters.remove(found[0])
    steps = []
    assert services.dead_lettering.discard_many(found, steps.append) == {"2", "3"}
    assert services.dead_lettering.discard_many(found) == set()
    assert services.counters.of(stream).discarded == 4
    assert steps == [3]


def test_dead_records_of_letters_that_another_version_stored_are_counted(services, letters, stream, redis):
    services.dead_lettering.dead_letter(undeliverable(stream, "1", records=2))
    redis.delete(DEAD_RECORDS)
    services.dead_lettering.dead_letter(undeliverable(stream, "2", records=3))
    assert letters.records_by_stream() == {stream: 5}
    assert redis.hgetall(DEAD_RECORDS) == {"#letters": "2", stream.queue: "5"}
    letters.remove(letters.get("1"))
    assert letters.records_by_stream() == {stream: 3}


def test_the_number_of_dead_records_does_not_need_the_letters_to_be_read(services, letters, stream, redis):
    services.dead_lettering.dead_letter(undeliverable(stream, "1", records=2))
    redis.hset(DEAD_LETTERS, "1", "{")
    assert letters.records_by_stream() == {stream: 2}


QUERIES = [
    ({}, ["1", "2"]),
    ({"type": "Access Denied"}, ["2"]),
    ({"connection_id": "1-a"}, ["1", "2"]),
    ({"connection_id": "3-c"}, []),
    ({"stream": "other"}, ["2"]),
    ({"stream": "firehose.main.us-east-1.travel"}, ["1"]),
    ({"since": "2023-11-14T22:14"}, ["2"]),
    ({"until": "2023-11-14T22:14"}, ["1"]),
]


@pytest.mark.parametrize(("query", "found"), QUERIES)
def test_letters_are_found_by_type_connection_stream_and_time(services, stream, clock, query, found):
    services.dead_lettering.dead_letter(undeliverable(stream, "1"))
    clock.advance(60)
    other = stream._replace(name="other")
    services.dead_lettering.dead_letter(undeliverable(other, "2", AlertType.ACCESS_DENIED))
    assert [letter.id for letter in services.dead_letters.find(Query(**query))] == found


def test_the_counter_of_dead_records_never_falls(services, letters, stream):
    services.dead_lettering.dead_letter(undeliverable(stream, "1", records=2))
    services.dead_lettering.dead_letter(undeliverable(stream, "1", records=2))
    services.dead_lettering.dead_letter(undeliverable(stream, "2", records=3))
    services.dead_lettering.discard(letters.get("1"))
    letters.remove(letters.get("2"))
    assert services.counters.of(stream).dead_lettered == 5


def test_dead_records_of_no_stream_are_counted(services, stream):
    services.dead_lettering.dead_letter(replace(undeliverable(stream), stream=None))
    assert services.counters.of(None).dead_lettered == 2
