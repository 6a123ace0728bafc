"""`celery -A worker dashboard` as a command."""

import os
import signal
import sys

import pytest
from waiting import eventually
from warm_start import warm_start

from devstack import processes
from devstack.ports import free_port


@pytest.fixture
def start(place):
    """Starts the command with some options; it is not waited for."""
    started = []

    def start(*options, application=("-A", "worker"), **env):
        command = [processes.BIN / "celery", *application, "dashboard", *options]
        env = place.environment | env
        started.append(processes.Process("dashboard", command, place.log("command"), env, warm_start))
        return started[-1]

    yield start
    for process in started:
        process.kill()


def exit_code(process):
    """The output of a process that ends by itself."""
    eventually(lambda: not process.is_running, what="the end of the process")
    return process.stop()


def test_an_open_dashboard_does_not_start(start):
    process = start("--address=0.0.0.0", f"--port={free_port()}")

    assert exit_code(process) == 1
    assert "FLOWER_BASIC_AUTH=user:password" in process.output()
    assert "Traceback" not in process.output()


def test_a_port_that_is_in_use_is_told_in_one_line(start):
    port = free_port()
    start(f"--port={port}").wait_until(lambda: processes.listens(port))

    process = start(f"--port={port}")

    assert exit_code(process) == 1
    assert f"127.0.0.1:{port} (Address already in use); name another: --port={port + 1}" in process.output()
    assert "Traceback" not in process.output()


def test_the_dashboard_does_not_start_with_a_credential_without_user_or_password(start):
    process = start("--address=0.0.0.0", FLOWER_BASIC_AUTH="admin")

    assert exit_code(process) == 1
    assert "FLOWER_BASIC_AUTH: must be user:password" in process.output()


def test_without_an_address_it_listens_on_this_machine_only(start):
    port = free_port()
    process = start(f"--port={port}").wait_until(lambda: processes.listens(port))

    eventually(lambda: f"http://127.0.0.1:{port}" in process.output())


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT])
def test_the_dashboard_stops_cleanly(start, how):
    port = free_port()
    process = start(f"--port={port}").wait_until(lambda: processes.listens(port))

    os.kill(process.pid, how)

    assert exit_code(process) == 0
    assert "Traceback" not in process.output()


WAITS_FOR_EVER = """
import threading
from worker.dashboard.command import leave
threading.Thread(target=threading.Event().wait).start()
print("the end", flush=True)
leave()
"""


def test_a_thread_that_waits_for_a_broker_does_not_hold_it_up(place):
    log = place.log("waits-for-ever")
    with processes.Process("waits for ever", [sys.executable, "-c", WAITS_FOR_EVER], log, {}) as process:
        assert exit_code(process) == 0
        assert "the end" in process.output()


def test_the_dashboard_refuses_another_application(start):
    process = start(application=())

    assert exit_code(process) != 0
    assert "celery -A worker dashboard" in process.output()


def test_the_command_has_help(start):
    process = start("--help")

    assert exit_code(process) == 0
    for printed in ("Streams and Dead", "--port", "--url-prefix", "FLOWER_BASIC_AUTH", "OAuth"):
        assert printed in process.output()
