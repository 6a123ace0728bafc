"""The parts that all commands share: help, errors, output."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest
from redis import Redis
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import ResponseError

from devstack import processes
from worker.cli import ENTRIES, INTERRUPTED, main
from worker.cli.explanations import explain
from worker.cli.interruption import Interrupted, Interruption
from worker.failures.alert_types import AlertType, Failure
from worker.failures.alerts import ALERTS, Alerts

CONTRACT = {
    "configure": {
        *("name", "--access-key-id", "--secret-access-key-stdin", "--session-token-stdin"),
        *("--role-arn", "--external-id"),
        *("--send-remove-on-identity-change", "--no-send-remove-on-identity-change"),
    },
    "connect": {
        *("audience_id", "--configuration", "--delivery-stream-name", "--region", "--exclude"),
        *("--stream-quota", "--include-metadata", "--no-include-metadata"),
        *("--aggregate-records", "--no-aggregate-records"),
        *("--send-anonymous-users", "--no-send-anonymous-users", "--append-newline", "--no-append-newline"),
        *("--forward-email-addresses", "--no-forward-email-addresses"),
        *("--forward-customer-ids", "--no-forward-customer-ids"),
        *("--forward-idfas", "--no-forward-idfas"),
        *("--forward-google-advertising-ids", "--no-forward-google-advertising-ids"),
    },
    "connections": {"--json", "--audience", "--configuration", "--stream", "--region"},
    "configurations": {"--json", "--role-arn", "--access-key-id", "--unused"},
    "forget-configuration": {"name"},
    "reencrypt": set(),
    "disconnect": {"connection_id"},
    "test": {"connection_id", "--send-record"},
    "policy": {"connection_id", "--account-id", "--kms-key-arn"},
    "reroute": set(),
    "notify": {"--test", "--json"},
    "doctor": {"--json"},
    "audit": {"--limit", "--since", "--who", "--action", "--subject", "--json"},
    "send": {"file"},
    "explain": {"change", "--json"},
    "alerts": {
        *("--json", "--follow", "--watch", "--since", "--type", "--stream", "--open"),
        *("--severity", "--region", "--connection"),
    },
    "acknowledge": {"alert_id", "--all"},
    "dead-letters": {"--json", "--watch", "--type", "--connection", "--stream", "--region", "--since"},
    "show-dead-letter": {"dead_letter_id", "--records", "--json"},
    "replay": {"dead_letter_id", "--all", "--connection", "--type", "--stream", "--since"},
    "discard": {"dead_letter_id", "--all", "--connection", "--type", "--stream", "--since"},
    "pause": {"connection_id"},
    "resume": {"connection_id"},
    "status": {"--json", "--watch", "--state", "--configuration", "--stream", "--region"},
}
"""Section 6 of the contract: every command, and what it takes."""
BEYOND = {"discard": {"--yes"}, "send": {"--from-line"}}
"""What it does not name."""
WITHOUT_DATA = {"notify"}
"""Commands that print nothing that a program reads."""
LISTINGS = ["audit", "connections", "configurations", "alerts", "dead-letters", "status"]


def test_the_commands_are_the_contracts():
    assert ENTRIES.keys() == CONTRACT.keys()


@pytest.mark.parametrize("name", sorted(CONTRACT))
def test_every_command_has_help(operator, name):
    assert main.get_command(None, name).name == name
    assert "Usage:" in operator.runs(name, "--help").stdout
    assert f"  {name} " in operator.runs("--help").stdout


@pytest.mark.parametrize("name", LISTINGS)
def test_every_listing_takes_json(operator, name):
    assert "--json" in operator.runs(name, "--help").stdout
    operator.lists(name)


@pytest.mark.parametrize("name", sorted(CONTRACT.keys() - WITHOUT_DATA))
def test_every_command_that_prints_data_takes_json(name):
    assert "--json" in {o for parameter in main.get_command(None, name).params for o in parameter.opts}


@pytest.mark.parametrize(("typed", "meant"), [("conect", "connect"), ("dead-leters", "dead-letters")])
def test_a_mistyped_command_is_answered_with_the_nearest_one(operator, typed, meant):
    assert f"did you mean {meant}" in operator.fails(typed, "--json")


def test_a_command_unlike_any_is_answered_without_a_guess(operator):
    message = operator.fails("zzz")
    assert "zzz" in message
    assert "did you mean" not in message


def test_help_needs_no_setting_and_does_not_wait_for_aws():
    program = (
        "import sys; from worker.cli import main\n"
        "try: main(['--help'])\n"
        "finally: sys.stderr.write(str(sorted({'boto3', 'botocore', 'celery'} & set(sys.modules))))"
    )
    environment = {**os.environ, "AUDIENCE_REDIS_URL": "nonsense"}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, check=True)
    assert done.stderr == b"[]"


def test_a_wrong_setting_ends_a_command_in_one_line():
    environment = {**os.environ, "AUDIENCE_REDIS_URL": "nonsense"}
    command = [sys.executable, "-c", "from worker.cli import main; main(['connections'])"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.splitlines() == [
        "audience-firehose: AUDIENCE_REDIS_URL: must start with redis://, rediss://, unix:// or sentinel://"
    ]


def test_a_closed_pipe_gives_no_traceback():
    read, write = os.pipe()
    os.close(read)
    command = [sys.executable, "-c", "from worker.cli import main; main(['send', '--help'])"]
    done = subprocess.run(command, stdout=write, stderr=subprocess.PIPE, check=False)
    os.close(write)
    assert (done.returncode, done.stderr) == (1, b"")


def test_a_pipe_that_is_closed_after_the_first_line_ends_a_listing_quietly(tmp_path):
    with processes.redis(tmp_path) as (_, url):
        alerts = Alerts(Redis.from_url(url, decode_responses=True), time.time)
        alerts.raise_alert(Failure(AlertType.ACCESS_DENIED, "AccessDeniedException", "long " * 200))
        entries = Redis.from_url(url)
        entries.rpush(ALERTS, *entries.lrange(ALERTS, 0, 0) * 500)
        program = "from worker.cli import main; main(['alerts', '--json'])"
        command = [sys.executable, "-c", program]
        environment = {**os.environ, "AUDIENCE_REDIS_URL": url, "CELERY_BROKER_URL": url}
        # Half a megabyte fills the pipe: the command is still writing when its reader is gone.
        with subprocess.Popen(
            command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        ) as process:
            first = process.stdout.readline()
            process.stdout.close()
            assert process.stderr.read() == ""
    assert json.loads(first)["type"] == "Access Denied"


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (RedisConnectionError("Error 111 connecting to localhost:6379."), "AUDIENCE_REDIS_URL"),
        (ResponseError("WRONGTYPE quoted"), "refuses a command (WRONGTYPE)"),
        (UnicodeEncodeError("utf-8", "quoted\ud800", 6, 7, "surrogates not allowed"), "no valid text"),
        (OSError(28, "No space left on device", "out"), "No space left on device"),
        (ZeroDivisionError("quoted"), "a defect in audience-firehose: ZeroDivisionError at "),
    ],
)
def test_no_error_becomes_a_traceback(operator, services, monkeypatch, error, message):
    def fail():
        raise error

    monkeypatch.setattr(services.registry, "snapshot", fail)
    shown = operator.fails("connections")
    assert message in shown
    assert "quoted" not in shown


def test_an_address_is_shown_without_its_password(monkeypatch):
    settings = type("Settings", (), {"redis_url": "redis://user:hunter2@redis.example:6380/1"})
    monkeypatch.setattr("worker.cli.explanations.current_settings", lambda: settings)
    shown = explain(RedisConnectionError("refused"))
    assert "redis.example:6380" in shown
    assert "hunter2" not in shown


def test_ctrl_c_ends_with_the_status_that_shells_expect(operator, services, monkeypatch):
    def interrupt():
        raise KeyboardInterrupt

    monkeypatch.setattr(services.registry, "snapshot", interrupt)
    result = operator.tries("connections")
    assert (result.exit_code, result.stderr) == (INTERRUPTED, "interrupted\n")


def test_a_signal_waits_for_the_end_of_a_step_and_a_second_one_does_not():
    done = []
    with Interruption() as interruption, pytest.raises(Interrupted), interruption.step():
        os.kill(os.getpid(), signal.SIGINT)
        done.append("first")
        os.kill(os.getpid(), signal.SIGINT)
        done.append("second")
    assert done == ["first"]


@pytest.mark.parametrize("name", sorted(CONTRACT))
def test_the_options_are_the_contracts(name):
    parameters = main.get_command(None, name).params
    options = {option for each in parameters for option in (*each.opts, *each.secondary_opts)}
    assert options - {"--help", "--json"} == (CONTRACT[name] | BEYOND.get(name, set())) - {"--json"}
