"""Shell completion."""

import pytest
from click.shell_completion import ShellComplete
from redis.exceptions import ConnectionError as RedisConnectionError

from worker.cli import ENTRIES, main
from worker.failures.alert_types import AlertType, Failure
from worker.failures.dead_lettering import Undeliverable
from worker.failures.dead_letters import Message
from worker.queues import Stream

STREAM = Stream("main", "us-east-1", "stream")


def completed(*words):
    """The completions of the last of the words."""
    *before, incomplete = words
    shell = ShellComplete(main, {}, "audience-firehose", "_AUDIENCE_FIREHOSE_COMPLETE")
    return {item.value: item.help for item in shell.get_completions(list(before), incomplete)}


@pytest.fixture
def dead_letter(services):
    failure = Failure(AlertType.ACCESS_DENIED, "AccessDeniedException", "?")
    message = Message(STREAM.task, STREAM.queue, {})
    services.dead_lettering.dead_letter(Undeliverable("letter", message, failure, 1, STREAM))
    return "letter"


def test_a_command_is_completed_with_its_summary_and_no_command_is_loaded():
    found = completed("conn")
    assert found.keys() == {"connect", "connections"}
    assert found["connect"] == ENTRIES["connect"].summary


def test_an_option_is_completed():
    assert "--type" in completed("alerts", "--ty")
    assert "fatal" in completed("alerts", "--severity", "f")
    assert completed("--ver").keys() == {"--version"}


@pytest.mark.parametrize("command", ["test", "pause", "resume", "disconnect", "policy"])
def test_the_id_of_a_connection_is_completed_with_its_stream(operator, command):
    connection = operator.connects()
    assert completed(command, "") == {connection: STREAM.queue}
    assert completed(command, connection[:4]) == {connection: STREAM.queue}
    assert completed(command, "x") == {}


@pytest.mark.parametrize(
    "command", [["configure"], ["forget-configuration"], ["connect", "7", "--configuration"]]
)
def test_the_name_of_a_configuration_is_completed(operator, command):
    operator.runs("configure", "main")
    assert completed(*command, "m").keys() == {"main"}


@pytest.mark.parametrize("command", ["replay", "discard", "show-dead-letter"])
def test_the_id_of_a_dead_letter_is_completed_with_its_type(operator, dead_letter, command):
    assert completed(command, "le") == {dead_letter: "Access Denied"}


def test_the_id_of_an_alert_is_completed_until_it_is_acknowledged(operator, services, dead_letter):
    (alert,) = services.alerts.all()
    assert completed("acknowledge", "") == {alert.id: "Access Denied"}
    services.alerts.acknowledge(alert.id)
    assert completed("acknowledge", "") == {}


def test_a_mistyped_command_and_a_redis_that_is_away_complete_nothing_and_are_no_errors(
    operator, services, monkeypatch
):
    def away():
        raise RedisConnectionError("refused")

    assert isinstance(completed("conect", ""), dict)
    monkeypatch.setattr(services.registry, "snapshot", away)
    assert completed("test", "") == {}


def test_wrong_settings_complete_nothing_and_are_no_error(monkeypatch):
    def stop():
        raise SystemExit("audience-firehose: AUDIENCE_REDIS_URL: not a URL")

    monkeypatch.setattr("worker.cli.completion.application", stop)
    assert completed("test", "") == {}
