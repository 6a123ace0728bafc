"""Differences on a terminal: widths, colours, `--watch`."""

import os
import pty
import re
import signal
import struct
import subprocess
import sys
from contextlib import suppress
from fcntl import ioctl
from termios import TIOCSWINSZ

import click
import pytest
from redis.exceptions import ConnectionError as RedisConnectionError

from devstack import processes
from worker.cli import main, watching
from worker.cli.watching import FORMER_SCREEN, HOME, OWN_SCREEN
from worker.flow.circuit_breakers import OPERATOR
from worker.queues import Stream

STREAM = Stream("main", "us-east-1", "stream")


@pytest.fixture
def terminal(monkeypatch):
    """The commands believe that they print to a terminal of 80 columns and 12 lines."""
    monkeypatch.setattr("worker.cli.output.is_terminal", lambda: True)
    monkeypatch.setattr("worker.cli.watching.is_terminal", lambda: True)
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("LINES", "12")
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")


def screens(output):
    """The screens that --watch has drawn, a list of lines for each time."""
    assert output.startswith(OWN_SCREEN)
    assert output.endswith(FORMER_SCREEN)
    drawn = output.removeprefix(OWN_SCREEN).removesuffix(FORMER_SCREEN).split(HOME)[1:]
    return [re.sub(r"\x1b\[[KJ]", "", screen).splitlines() for screen in map(click.unstyle, drawn)]


def coloured(operator, *arguments):
    """Run a command that must succeed; colours and other codes of terminals are kept."""
    result = operator.runner.invoke(main, list(arguments), color=True)
    assert result.exit_code == 0, result.output
    return result


def rounds(monkeypatch, services, *between):
    """Run something between two drawings; after the last one, Ctrl-C."""
    waiting = iter(between)

    def sleep(seconds):
        assert seconds == watching.WATCH_INTERVAL_SECONDS
        try:
            act = next(waiting)
        except StopIteration:
            raise KeyboardInterrupt from None
        act()

    monkeypatch.setattr(services, "sleep", sleep)


def test_status_is_readable_at_80_columns(operator, services, terminal):
    operator.connects()
    services.counters.enqueued(STREAM, 1_000_000)
    services.circuit_breakers.pause(STREAM, OPERATOR)
    shown = operator.runs("status").stdout.splitlines()
    assert max(map(len, shown)) <= 80
    assert shown[0] == STREAM.queue
    assert any("enqueued 1000000" in line for line in shown)


def test_watching_draws_what_is_new_and_ctrl_c_ends_it_without_an_error(
    operator, services, terminal, monkeypatch
):
    operator.connects()
    rounds(monkeypatch, services, lambda: services.circuit_breakers.pause(STREAM, OPERATOR))
    result = coloured(operator, "status", "--watch")
    first, second = map(str, screens(result.stdout))
    assert "state flowing" in first
    assert "state paused: operator" in second
    assert result.stderr == ""


def test_watching_outlives_a_redis_that_is_away(operator, services, terminal, monkeypatch):
    read = services.dead_letters.all

    def away():
        raise RedisConnectionError("Error 111 connecting to localhost:6379")

    def leave():
        monkeypatch.setattr(services.dead_letters, "all", away)

    def come_back():
        monkeypatch.setattr(services.dead_letters, "all", read)

    rounds(monkeypatch, services, leave, come_back)
    first, second, third = map(str, screens(coloured(operator, "dead-letters", "--watch").stdout))
    assert "no dead letters" in first
    assert "out of reach" in second
    assert "no dead letters" in third


def test_what_does_not_fit_the_screen_is_counted(operator, services, terminal, monkeypatch):
    for number in range(20):
        operator.connects(number, f"stream-{number}")
    rounds(monkeypatch, services)
    (screen,) = screens(coloured(operator, "status", "--watch").stdout)
    assert len(screen) == 12
    assert re.fullmatch(r"… \d+ more lines", screen[-1])


@pytest.mark.parametrize("options", [["--json"], []], ids=["json", "no terminal"])
def test_watching_is_for_a_terminal(operator, options):
    assert "--watch is for a terminal" in operator.fails("alerts", "--watch", *options)


def test_following_and_watching_exclude_each_other(operator):
    assert "either --follow or --watch" in operator.fails("alerts", "--watch", "--follow")


def test_a_terminal_has_colours(operator, terminal):
    operator.connects()
    assert click.style("state flowing", fg="green") in coloured(operator, "status").stdout


@pytest.mark.parametrize("variable", [("NO_COLOR", "1"), ("TERM", "dumb")])
def test_a_terminal_has_no_colours_where_they_are_turned_off(operator, terminal, monkeypatch, variable):
    operator.connects()
    monkeypatch.setenv(*variable)
    assert "\x1b" not in coloured(operator, "status").stdout


def test_without_a_terminal_there_is_no_colour(operator):
    operator.connects()
    assert "\x1b" not in coloured(operator, "status").stdout


WATCHES = """
import signal
# A shell has programs in the background ignore it, and what they start.
signal.signal(signal.SIGINT, signal.default_int_handler)
from worker.cli import main
main(["dead-letters", "--watch"])
"""


def test_on_a_real_terminal_watching_ends_with_the_former_screen(tmp_path):
    with processes.redis(tmp_path) as (_, url):
        environment = {**os.environ, "AUDIENCE_REDIS_URL": url, "CELERY_BROKER_URL": url, "TERM": "xterm"}
        command = [sys.executable, "-c", WATCHES]
        ours, theirs = pty.openpty()
        ioctl(theirs, TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
        with subprocess.Popen(
            command, env=environment, stdin=theirs, stdout=theirs, stderr=theirs
        ) as process:
            os.close(theirs)
            shown = b""
            while b"no dead letters" not in shown:
                shown += os.read(ours, 4096)
            process.send_signal(signal.SIGINT)
            with suppress(OSError):
                while more := os.read(ours, 4096):
                    shown += more
            assert process.wait() == 0
        os.close(ours)
    assert shown.decode().rstrip().endswith(FORMER_SCREEN)
    assert b"Traceback" not in shown
