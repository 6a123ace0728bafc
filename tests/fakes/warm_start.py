"""Starts Python programs of this project from a process that has imported already what they need of others.

Most of the time until a worker is ready goes to the imports of Celery, boto3 and what these import. Here one
process imports them for all programs that a test process starts, and forks for each. The forked process has
the environment, directory and session of a new one, and imports what is ours by itself.

    with processes.worker(log, env, start=warm_start) as worker:
        ...
"""

import gc
import json
import os
import runpy
import signal
import socket
import subprocess
import sys
import time
from functools import cache
from importlib import import_module
from pathlib import Path
from threading import Lock

PACKAGES = (
    "boto3.session",
    "botocore.client",
    "botocore.httpsession",
    "celery.apps.worker",
    "celery.bin.celery",
    "celery.concurrency.prefork",
    "celery.fixups.django",
    "celery.loaders.app",
    "celery.worker.consumer",
    "cryptography.fernet",
    "flower.command",
    "kombu.transport.pyamqp",
    "kombu.transport.redis",
    "marshmallow",
    "orjson",
)
"""What workers and the dashboard import."""
POLL_SECONDS = 0.02


class Started:
    """A program that runs: of `subprocess.Popen`, what `devstack.processes` needs."""

    def __init__(self, python, pid):
        self.pid = pid
        self.returncode = None
        self._python = python

    def poll(self):
        """Its exit code, negative where a signal ended it; None while it runs."""
        if self.returncode is None:
            self.returncode = self._python.ask(pid=self.pid)
        return self.returncode

    def wait(self, timeout=float("inf")):
        """Wait for its end, and return its exit code. Raises `subprocess.TimeoutExpired`."""
        deadline = time.monotonic() + timeout
        while self.poll() is None:
            if time.monotonic() > deadline:
                raise subprocess.TimeoutExpired(str(self.pid), timeout)
            time.sleep(POLL_SECONDS)
        return self.returncode

    def terminate(self):
        """Send SIGTERM."""
        os.kill(self.pid, signal.SIGTERM)


class WarmPython:
    """The process that forks. It ends with the one that has started it."""

    def __init__(self):
        ours, its = socket.socketpair()
        with its:
            command = [sys.executable, __file__, str(its.fileno())]
            self._process = subprocess.Popen(command, pass_fds=[its.fileno()], start_new_session=True)
        self._requests, self._answers = ours.makefile("w"), ours.makefile("r")
        self._lock = Lock()

    def ask(self, **request):
        """Send a request, and return the answer."""
        with self._lock:
            print(json.dumps(request), file=self._requests, flush=True)
            return json.loads(self._answers.readline())


@cache
def warm_python():
    return WarmPython()


def warm_start(command, *, cwd, env, stdout, **_options):
    """Start a Python program, in place of `subprocess.Popen`."""
    python = warm_python()
    pid = python.ask(command=command, cwd=str(cwd), env=env, output=stdout.name)
    return Started(python, pid)


def serve(connection):
    """Fork for each program that is asked for. Returns, in a forked process, what it is to run."""
    with connection, connection.makefile("r") as requests, connection.makefile("w") as answers:
        for line in requests:
            request = json.loads(line)
            if "pid" in request:
                print(json.dumps(exit_code(request["pid"])), file=answers, flush=True)
            elif os.fork() == 0:
                os.setsid()
                print(os.getpid(), file=answers, flush=True)
                return request
    return None


def exit_code(pid):
    ended, status = os.waitpid(pid, os.WNOHANG)
    return os.waitstatus_to_exitcode(status) if ended else None


def run(command, cwd, env, output):
    """Become a program. Its output goes to a file."""
    program = command[0]
    nothing = os.open(os.devnull, os.O_RDONLY)
    log = os.open(output, os.O_WRONLY | os.O_APPEND)
    for ours, its in ((nothing, 0), (log, 1), (log, 2)):
        os.dup2(ours, its)
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(env)
    sys.argv = command
    sys.path[:1] = [str(Path(program).parent), *filter(None, env.get("PYTHONPATH", "").split(os.pathsep))]
    runpy.run_path(program, run_name="__main__")


if __name__ == "__main__":
    gc.disable()
    for package in PACKAGES:
        import_module(package)
    # A forked process shares what was imported for as long as it does not write to it.
    gc.freeze()
    gc.enable()
    if (wanted := serve(socket.socket(fileno=int(sys.argv[1])))) is not None:
        run(**wanted)
