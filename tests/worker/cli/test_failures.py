"""The commands `alerts`, `acknowledge`, `dead-letters`, `show-dead-letter`, `replay` and `discard`."""

import json
import os
import signal
from dataclasses import fields

import pytest
from kombu.exceptions import OperationalError
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import OutOfMemoryError

from worker.errors import NotRegistered
from worker.failures.alert_types import AlertType, Failure
from worker.failures.alerts import Alert
from worker.failures.dead_lettering import Undeliverable
from worker.failures.dead_letters import MALFORMED, Message
from worker.queues import Stream

STREAM = Stream("main", "us-east-1", "stream")
IDENTITY = "phileas@example.com"
DENIED = Failure(AlertType.ACCESS_DENIED, "AccessDeniedException", "attach a policy")


@pytest.fixture
def dead_lettered(services):
    """Makes dead letters, each with its alert."""

    def make(identifier, *, stream=STREAM, failure=DENIED, message=None, connection_ids=(), records=2):
        kept = message or Message(stream.task, stream.queue, {"records": [IDENTITY, identifier]})
        services.dead_lettering.dead_letter(
            Undeliverable(
                id=identifier,
                message=kept,
                failure=failure,
                records=records,
                stream=stream,
                connection_ids=connection_ids,
            ),
        )
        # The next one raises an alert of its own.
        services.redis.delete(*services.redis.keys("audience:alerts:current:*"))

    return make


def next_or_ctrl_c(rounds):
    """The result of the next round; after the last, somebody presses Ctrl-C."""
    for found in rounds:
        return found
    raise KeyboardInterrupt


def alert_states(operator):
    """By dead letter, what has become of its alert."""
    return {alert["dead_letter_id"]: alert["state"] for alert in operator.lists("alerts")}


def test_alerts_are_listed_newest_first_with_the_contracts_fields_and_their_state(
    operator, dead_lettered, clock
):
    dead_lettered("first", connection_ids=["7-ab"])
    clock.now += 60
    dead_lettered("second")
    newest, oldest = operator.lists("alerts")
    assert [newest["dead_letter_id"], oldest["dead_letter_id"]] == ["second", "first"]
    assert list(oldest) == [*(f.name for f in fields(Alert)), "state"]
    assert oldest["connection_ids"] == ["7-ab"]
    assert oldest["state"] == "open"
    assert "Access Denied" in operator.runs("alerts").stdout


@pytest.mark.parametrize(
    ("since", "shown"), [("30m", ["now"]), ("12h", ["now", "hour"]), ("2d", ["now", "hour", "day"])]
)
def test_since_shows_only_the_recent_ones(operator, dead_lettered, clock, since, shown):
    now = clock.now
    for identifier, ago in (("day", 86_400), ("hour", 3_600), ("now", 0)):
        clock.now = now - ago
        dead_lettered(identifier)
    assert [alert["dead_letter_id"] for alert in operator.lists("alerts", "--since", since)] == shown


@pytest.mark.parametrize("since", ["12", "h", "-1h", "1y", "1h30m"])
def test_a_duration_that_is_none_is_refused(operator, since):
    assert "30m, 12h or 7d" in operator.fails("alerts", f"--since={since}")


def test_the_list_tells_how_often_an_alert_was_raised_and_when_last(operator, services, clock):
    for _ in range(3):
        services.alerts.raise_alert(DENIED, stream=STREAM)
        clock.now += 30

    heading, *lines = operator.runs("alerts").stdout.splitlines()
    shown = [line.split() for line in lines]
    assert heading.split()[1:5] == ["LAST", "RAISED", "AT", "TIMES"]
    assert [(cells[1], cells[2]) for cells in shown] == [("2027-01-15T08:01:00.000+00:00", "3")]


def test_follow_prints_new_alerts_once_and_oldest_first(operator, services, dead_lettered, monkeypatch):
    dead_lettered("before")
    rounds = iter([["a", "b"], [], ["c"], []])

    def sleep(_):
        for identifier in next_or_ctrl_c(rounds):
            dead_lettered(identifier)

    monkeypatch.setattr(services, "sleep", sleep)
    lines = operator.runs("alerts", "--follow", "--json").stdout.splitlines()
    assert [json.loads(line)["dead_letter_id"] for line in lines] == ["a", "b", "c"]


def test_follow_since_begins_with_the_recent_ones(operator, services, dead_lettered, monkeypatch, clock):
    dead_lettered("first")
    clock.now += 1
    dead_lettered("second")

    monkeypatch.setattr(services, "sleep", lambda _: next_or_ctrl_c(iter([])))
    first, second = operator.runs("alerts", "--follow", "--since", "1h", "--json").stdout.splitlines()
    assert json.loads(first)["dead_letter_id"] == "first"
    assert json.loads(second)["dead_letter_id"] == "second"


def test_following_outlives_a_redis_that_is_away(operator, services, dead_lettered, monkeypatch):
    newer_than = services.alerts.newer_than

    def away(_):
        raise RedisConnectionError("Error 111 connecting to localhost:6379")

    def leave():
        monkeypatch.setattr(services.alerts, "newer_than", away)

    def come_back():
        dead_lettered("meanwhile")
        monkeypatch.setattr(services.alerts, "newer_than", newer_than)

    rounds = iter([leave, lambda: None, come_back])
    monkeypatch.setattr(services, "sleep", lambda _: next_or_ctrl_c(rounds)())
    followed = operator.runs("alerts", "--follow", "--json")
    assert [json.loads(line)["dead_letter_id"] for line in followed.stdout.splitlines()] == ["meanwhile"]
    assert followed.stderr.count("waiting for it") == 1
    assert followed.stderr.count("Redis is back") == 1


def test_following_begins_while_redis_is_away(operator, services, dead_lettered, monkeypatch):
    def away():
        raise RedisConnectionError("Error 111 connecting to localhost:6379")

    def come_back():
        monkeypatch.undo()
        monkeypatch.setattr(services, "sleep", sleep)
        dead_lettered("before")

    rounds = iter([lambda: None, come_back, lambda: dead_lettered("new")])

    def sleep(_):
        next_or_ctrl_c(rounds)()

    monkeypatch.setattr(services, "sleep", sleep)
    monkeypatch.setattr(services.alerts, "all", away)
    followed = operator.runs("alerts", "--follow", "--json", "--since", "1h")

    assert [json.loads(line)["dead_letter_id"] for line in followed.stdout.splitlines()] == ["before", "new"]
    assert followed.stderr.count("waiting for it") == 1
    assert followed.stderr.count("Redis is back") == 1


def test_acknowledge_takes_one_alert_or_all(operator, dead_lettered):
    for identifier in "abc":
        dead_lettered(identifier)
    newest = operator.lists("alerts")[0]
    operator.runs("acknowledge", newest["id"])
    assert alert_states(operator) == {"a": "open", "b": "open", "c": "acknowledged"}
    assert "2 alerts" in operator.runs("acknowledge", "--all").stdout
    assert set(alert_states(operator).values()) == {"acknowledged"}
    assert "0 alerts" in operator.runs("acknowledge", "--all").stdout
    assert len(operator.lists("audit")) == 2


@pytest.mark.parametrize("command", ["alerts", "dead-letters"])
def test_a_connection_that_never_was_is_refused_and_one_that_is_gone_is_not(operator, dead_lettered, command):
    assert "no connection 'nope'" in operator.fails(command, "--connection", "nope")
    dead_lettered("letter", connection_ids=["7-ab"])
    assert len(operator.lists(command, "--connection", "7-ab")) == 1


def test_an_unknown_alert_or_no_choice_is_refused(operator):
    assert "list them: audience-firehose alerts" in operator.fails("acknowledge", "nope")
    assert "either an ID or --all" in operator.fails("acknowledge")
    assert "either an ID or --all" in operator.fails("acknowledge", "x", "--all")


def test_dead_letters_are_listed_without_their_records(operator, dead_lettered):
    dead_lettered("letter", connection_ids=["7-ab"])
    (row,) = operator.lists("dead-letters")
    assert (row["id"], row["records"], row["queue"]) == ("letter", 2, STREAM.queue)
    shown = operator.runs("dead-letters").output + json.dumps(row)
    assert IDENTITY not in shown


def test_a_replay_sends_the_letter_as_it_was_and_resolves_its_alert(
    operator, dead_lettered, queues, services
):
    operator.connects()
    dead_lettered("letter")
    dead_lettered("other")
    replay_id = services.dead_letters.get("letter").replay_id
    result = operator.runs("replay", "letter")
    ((headers, args, kwargs),) = queues.calls(STREAM.queue)
    assert (headers["task"], headers["id"]) == ("audience.deliver.us-east-1", replay_id)
    assert (args, kwargs) == ([], {"records": [IDENTITY, "letter"]})
    assert IDENTITY not in str(headers)
    assert "1 dead letter: 2 records" in result.stdout
    assert [letter.id for letter in services.dead_letters.all()] == ["other"]
    assert alert_states(operator) == {"letter": "resolved", "other": "open"}


def test_positional_arguments_are_replayed_too(operator, dead_lettered, queues):
    dead_lettered("letter", message=Message("audience.forward", "audience.changes", {}, [[1, 2]]))
    operator.runs("replay", "letter")
    ((_, args, kwargs),) = queues.calls("audience.changes")
    assert (args, kwargs) == ([[1, 2]], {})


def test_a_dead_letter_stays_if_the_broker_does_not_accept_its_replay(
    operator, dead_lettered, services, no_broker
):
    operator.connects()
    dead_lettered("letter")
    assert "CELERY_BROKER_URL" in operator.fails("replay", "letter")
    assert [letter.id for letter in services.dead_letters.all()] == ["letter"]
    assert alert_states(operator) == {"letter": "open"}


UNREPLAYABLE = [
    ({"message": Message(MALFORMED, "audience.changes", {"body": IDENTITY})}, "no call of a task"),
    ({"failure": Failure(AlertType.RECORD_TOO_LARGE, "RecordTooLarge", "over the limit")}, "over the limit"),
    ({"stream": Stream("main", "us-east-1", "gone")}, "connect it again"),
]


@pytest.mark.parametrize(("letter", "reason"), UNREPLAYABLE)
def test_a_letter_that_cannot_succeed_is_refused_with_a_reason(
    operator, dead_lettered, queues, letter, reason
):
    operator.connects()
    dead_lettered("letter", **letter)
    message = operator.fails("replay", "letter")
    assert reason in message
    assert IDENTITY not in message
    assert [row["id"] for row in operator.lists("dead-letters")] == ["letter"]
    for queue in (STREAM.queue, "firehose.main.us-east-1.gone", "audience.changes"):
        assert queues.calls(queue) == []


def test_replaying_all_leaves_dead_letters_that_cannot_be_replayed(operator, dead_lettered, queues, services):
    operator.connects()
    for number, (letter, _) in enumerate(UNREPLAYABLE):
        dead_lettered(f"bad-{number}", **letter)
    dead_lettered("good-1")
    dead_lettered("good-2")
    result = operator.tries("replay", "--all")
    assert result.exit_code == 1
    assert len(queues.calls(STREAM.queue)) == 2
    assert {letter.id for letter in services.dead_letters.all()} == {"bad-0", "bad-1", "bad-2"}
    assert result.stderr.count("left: bad-") == 3
    states = alert_states(operator)
    assert states["good-1"] == states["good-2"] == "resolved"
    assert states["bad-0"] == "open"


def test_the_option_connection_narrows_all(operator, dead_lettered, queues, services):
    mine, other = operator.connects(7), operator.connects(8)
    dead_lettered("mine", connection_ids=[mine])
    dead_lettered("other", connection_ids=[other])
    operator.runs("replay", "--all", "--connection", mine)
    assert [letter.id for letter in services.dead_letters.all()] == ["other"]
    assert len(queues.calls(STREAM.queue)) == 1


def test_the_option_connection_names_a_known_connection_and_needs_all(operator):
    assert "give both" in operator.fails("replay", "letter", "--connection", "7-ab")
    assert "no connection '7-ab'" in operator.fails("replay", "--all", "--connection", "7-ab")


def test_a_connection_that_is_gone_may_have_letters_left(operator, dead_lettered, services):
    mine = operator.connects(7)
    operator.connects(8)
    dead_lettered("mine", connection_ids=[mine])
    operator.runs("disconnect", mine)
    operator.runs("replay", "--all", "--connection", mine)
    assert services.dead_letters.all() == []


def test_a_replay_into_a_paused_stream_says_that_it_waits(operator, dead_lettered):
    identifier = operator.connects()
    operator.runs("pause", identifier)
    dead_lettered("letter")
    assert (
        f"wait there until `audience-firehose resume {identifier}`"
        in operator.runs("replay", "letter").stderr
    )


def test_a_replay_into_a_failing_stream_says_that_it_waits(operator, dead_lettered, services):
    operator.connects()
    dead_lettered("letter")
    services.circuit_breakers.record_failure(STREAM, "500", first=60, longest=60)
    assert f"{STREAM.queue} is failing (500)" in operator.runs("replay", "letter").stderr


def test_a_replay_that_breaks_off_has_resolved_what_it_sent(operator, dead_lettered, services, sending):
    def refuse():
        raise OperationalError("Connection refused")

    sending.at_second = refuse
    operator.connects()
    dead_lettered("a")
    dead_lettered("b")
    result = operator.tries("replay", "--all")
    assert result.exit_code == 1
    assert "replayed 1 dead letter" in result.stdout
    assert "give the command again" in result.stderr
    (left,) = services.dead_letters.all()
    assert alert_states(operator) == {left.id: "open", ({"a", "b"} - {left.id}).pop(): "resolved"}


def test_an_interrupted_replay_goes_on_where_it_stopped(operator, dead_lettered, queues, sending):
    sending.at_second = lambda: os.kill(os.getpid(), signal.SIGTERM)
    operator.connects()
    for identifier in "abc":
        dead_lettered(identifier)
    stopped = operator.tries("replay", "--all")
    assert stopped.exit_code == 143
    assert "replayed 2 dead letters" in stopped.stdout
    assert "give the command again" in stopped.stderr
    assert "replayed 1 dead letter" in operator.runs("replay", "--all").stdout
    assert len(queues.calls(STREAM.queue)) == 3
    assert set(alert_states(operator).values()) == {"resolved"}


def test_discarding_asks_for_confirmation(operator, dead_lettered, services):
    dead_lettered("letter")
    assert "nothing was discarded" in operator.fails("discard", "letter", stdin="n\n")
    assert "nothing was discarded" in operator.fails("discard", "letter")
    assert services.dead_letters.holds("letter")
    operator.runs("discard", "letter", stdin="y\n")
    assert not services.dead_letters.holds("letter")
    assert alert_states(operator) == {"letter": "resolved"}


def test_a_letter_that_somebody_else_replays_meanwhile_is_not_discarded(dead_lettered, services):
    dead_lettered("letter")
    letter = services.dead_letters.get("letter")
    services.dead_letters.remove(letter)
    with pytest.raises(NotRegistered):
        services.dead_lettering.discard(letter)
    assert services.counters.of(letter.stream).discarded == 0


def test_the_option_yes_skips_the_confirmation(operator, dead_lettered, services):
    dead_lettered("letter")
    result = operator.runs("discard", "letter", "--yes")
    assert "2 records" in result.stdout
    assert "?" not in result.output
    assert "list them: audience-firehose dead-letters" in operator.fails("discard", "letter", "--yes")


def test_control_characters_of_senders_do_not_reach_the_terminal(operator, dead_lettered):
    dead_lettered("letter", failure=Failure(AlertType.INVALID_REQUEST, "\x1b[2J", "a\rb"))
    shown = operator.runs("dead-letters").stdout + operator.runs("alerts").stdout
    assert "\x1b" not in shown
    assert "\r" not in shown


TOO_LARGE = Failure(AlertType.RECORD_TOO_LARGE, "RecordTooLarge", "too large")
OTHER = STREAM._replace(name="other")


def ids(rows):
    return {row["dead_letter_id"] for row in rows}


def test_alerts_are_narrowed_to_a_type_a_stream_and_the_open_ones(operator, dead_lettered):
    dead_lettered("denied")
    dead_lettered("large", failure=TOO_LARGE)
    dead_lettered("other", stream=OTHER)
    assert ids(operator.lists("alerts", "--type", "access denied")) == {"denied", "other"}
    assert ids(operator.lists("alerts", "--stream", "other")) == {"other"}
    assert ids(operator.lists("alerts", "--type", "Access Denied", "--stream", "stream")) == {"denied"}
    operator.runs("discard", "large", "--yes")
    assert ids(operator.lists("alerts", "--open")) == {"denied", "other"}
    assert "'invalid change'" in operator.fails("alerts", "--type", "Whatever")


def test_following_shows_only_what_was_asked_for(operator, services, dead_lettered, monkeypatch):
    rounds = iter([lambda: dead_lettered("denied"), lambda: dead_lettered("large", failure=TOO_LARGE)])
    monkeypatch.setattr(services, "sleep", lambda _: next_or_ctrl_c(rounds)())
    followed = operator.tries("alerts", "--follow", "--json", "--type", "Record Too Large")
    assert ids(map(json.loads, followed.stdout.splitlines())) == {"large"}


def test_dead_letters_are_narrowed_to_a_type_and_a_connection(operator, dead_lettered):
    dead_lettered("denied", connection_ids=["7-ab"])
    dead_lettered("large", connection_ids=["7-ab"], failure=TOO_LARGE)
    dead_lettered("other", connection_ids=["8-cd"])

    def listed(*options):
        return {row["id"] for row in operator.lists("dead-letters", *options)}

    assert listed("--connection", "7-ab") == {"denied", "large"}
    assert listed("--type", "Access Denied") == {"denied", "other"}
    assert listed("--type", "Access Denied", "--connection", "7-ab") == {"denied"}


def test_replaying_all_is_narrowed_to_a_type(operator, dead_lettered, queues, services):
    operator.connects()
    invalid = Failure(AlertType.INVALID_REQUEST, "InvalidArgumentException", "?")
    dead_lettered("denied")
    dead_lettered("invalid", failure=invalid)
    operator.runs("replay", "--all", "--type", "Invalid Request")
    assert {letter.id for letter in services.dead_letters.all()} == {"denied"}
    assert "narrow --all" in operator.fails("replay", "denied", "--type", "Access Denied")


def test_a_replay_of_invalid_changes_says_that_they_may_be_dead_letters_again(
    operator, dead_lettered, queues
):
    operator.connects()
    dead_lettered("denied")
    dead_lettered("unknown", failure=Failure(AlertType.INVALID_CHANGE, "ValidationError", "?"))
    note = "1 message of invalid changes: what is still invalid is a dead letter again"
    assert note in operator.runs("replay", "--all").stderr


def test_discarding_all_is_narrowed_asks_once_and_counts(operator, dead_lettered, services):
    for identifier in "ab":
        dead_lettered(identifier, failure=TOO_LARGE, connection_ids=["7-ab"])
    dead_lettered("other", failure=TOO_LARGE, connection_ids=["8-cd"])
    dead_lettered("denied", connection_ids=["7-ab"])
    command = ("discard", "--all", "--type", "Record Too Large", "--connection", "7-ab")
    assert "Discard 4 records (2 dead letters) for good?" in operator.fails(*command, stdin="n\n")
    assert len(services.dead_letters.all()) == 4
    assert "discarded 2 dead letters: 4 records" in operator.runs(*command, stdin="y\n").stdout
    assert {letter.id for letter in services.dead_letters.all()} == {"other", "denied"}
    assert services.counters.of(STREAM).discarded == 4
    assert operator.runs(*command).stderr == "no dead letters\n"


def test_an_interrupted_discard_says_what_is_gone_and_goes_on_where_it_stopped(
    operator, dead_lettered, services, monkeypatch
):
    for identifier in "abc":
        dead_lettered(identifier)
    remove_many = services.dead_letters.remove_many

    def remove_and_interrupt(letters, **options):
        os.kill(os.getpid(), signal.SIGINT)
        return remove_many(letters, **options)

    monkeypatch.setattr("worker.cli.failures.REMOVED_LETTERS", 1)
    monkeypatch.setattr(services.dead_letters, "remove_many", remove_and_interrupt)
    stopped = operator.tries("discard", "--all", "--yes")
    assert stopped.exit_code == 130
    assert "discarded 1 dead letter: 2 records" in stopped.stdout
    assert "give the command again" in stopped.stderr
    assert len(services.dead_letters.all()) == 2


def test_discarding_a_letter_that_somebody_else_has_just_removed_says_so(
    operator, dead_lettered, services, monkeypatch
):
    dead_lettered("letter")
    monkeypatch.setattr(services.dead_letters, "remove_many", lambda *_, **__: set())
    message = operator.fails("discard", "letter", "--yes")
    assert "somebody else has just replayed or discarded" in message


def test_a_dead_letter_is_shown_without_its_records(operator, dead_lettered):
    dead_lettered("letter", connection_ids=["7-ab"])
    shown = operator.runs("show-dead-letter", "letter")
    assert "Access Denied" in shown.stdout
    assert "7-ab" in shown.stdout
    assert IDENTITY not in shown.output
    (row,) = operator.lists("show-dead-letter", "letter")
    assert row["id"] == "letter"


def test_what_operators_do_to_alerts_and_dead_letters_is_in_the_audit_list(
    operator, dead_lettered, services, queues
):
    operator.connects()
    for identifier in "abcd":
        dead_lettered(identifier)
    operator.runs("discard", "a", "--yes")
    operator.runs("replay", "b")
    operator.runs("acknowledge", "--all")
    operator.runs("discard", "--all", "--yes")
    entries = services.audit.latest()[:4]
    assert [(entry.action, entry.subject, entry.detail) for entry in reversed(entries)] == [
        ("discard", "a", "2 records"),
        ("replay", "b", "2 records"),
        ("acknowledge", "2 alerts", ""),
        ("discard", "2 dead letters", "4 records: c, d"),
    ]
    assert all("@" in entry.actor for entry in entries)


def test_an_action_is_done_where_a_full_redis_refuses_its_audit_entry(
    operator, dead_lettered, services, monkeypatch
):
    def refuse(*_):
        raise OutOfMemoryError("OOM command not allowed")

    dead_lettered("a")
    monkeypatch.setattr(services.audit, "record", refuse)
    done = operator.runs("discard", "a", "--yes")
    assert "not written to the audit list (OutOfMemoryError)" in done.stderr
    assert services.dead_letters.all() == []


def test_the_records_of_a_dead_letter_are_not_shown_to_a_pipe(operator, dead_lettered, services):
    dead_lettered("letter")
    message = operator.fails("show-dead-letter", "letter", "--records")
    assert "on a terminal only" in message
    assert IDENTITY not in message
    assert services.audit.latest() == []


def test_the_records_of_a_dead_letter_are_shown_on_a_terminal_and_audited(
    operator, dead_lettered, services, monkeypatch
):
    dead_lettered("letter")
    monkeypatch.setattr("worker.cli.dead_letter.is_terminal", lambda: True)
    assert IDENTITY in operator.runs("show-dead-letter", "letter", "--records").stdout
    (entry,) = services.audit.latest()
    assert (entry.action, entry.subject) == ("show", "letter")
    assert IDENTITY not in repr(entry)


def test_alerts_are_narrowed_to_a_severity_a_region_and_a_connection(operator, dead_lettered):
    dead_lettered("denied", connection_ids=["7-ab"])
    dead_lettered("large", connection_ids=["8-cd"], failure=TOO_LARGE)

    def listed(*options):
        return ids(operator.lists("alerts", *options))

    assert listed("--severity", "fatal") == {"denied"}
    assert listed("--connection", "8-cd") == {"large"}
    assert listed("--region", STREAM.region) == {"denied", "large"}
    assert listed("--region", "eu-west-3") == set()


def test_dead_letters_are_narrowed_to_a_stream_a_region_and_a_time(operator, dead_lettered, clock):
    dead_lettered("old")
    clock.now += 7200
    dead_lettered("new")

    def listed(*options):
        return {row["id"] for row in operator.lists("dead-letters", *options)}

    assert listed("--since", "1h") == {"new"}
    assert listed("--stream", STREAM.name, "--region", STREAM.region) == {"old", "new"}
    assert listed("--stream", "another") == set()


def test_discarding_all_is_narrowed_to_a_stream_and_a_time(operator, dead_lettered, services, clock):
    dead_lettered("old")
    clock.now += 7200
    dead_lettered("new")
    discarded = operator.lists("discard", "--all", "--yes", "--stream", STREAM.name, "--since", "1h")
    assert discarded == [{"discarded": 1, "records": 2}]
    assert {letter.id for letter in services.dead_letters.all()} == {"old"}
    assert "narrow --all" in operator.fails("discard", "old", "--since", "1h")


def test_a_replay_tells_a_program_its_numbers(operator, dead_lettered, queues):
    operator.connects()
    dead_lettered("denied")
    assert operator.lists("replay", "denied") == [{"replayed": 1, "records": 2, "left": 0}]
