"""Stops the process that imports it (SIGSTOP) just after it has sent messages, where a test asks for that.

A worker imports it with `--include stopping_point`. The test writes a file named `armed`; the process that
next sends a message renames it to `stopped-PID` and stops, until the test kills or continues it. One
process stops for each file, and later ones go on.
"""

import os
import signal
from contextlib import suppress
from itertools import count
from pathlib import Path

import psutil
from celery.signals import after_task_publish
from waiting import eventually

DIRECTORY = "STOPPING_POINT"
"""The environment variable that names the directory of the files."""
SENDS = "STOPPING_POINT_SENDS"
"""The environment variable with the number of messages that a process sends before it may stop."""


class StoppingPoint:
    """The test's side: arms the stopping point, and waits until a process stands at it."""

    def __init__(self, directory: Path, sends: int = 1) -> None:
        self._directory = directory
        self.environment = {
            "PYTHONPATH": os.fspath(Path(__file__).parent),
            DIRECTORY: os.fspath(directory),
            SENDS: str(sends),
        }

    def arm(self) -> None:
        """Have the next process that sends a message stop after it."""
        (self._directory / "armed").touch()

    def wait(self) -> int:
        """Wait until a process has stopped. Returns its ID."""
        (stopped,) = eventually(lambda: list(self._directory.glob("stopped-*")))
        process = int(stopped.name.partition("-")[2])
        stopped.unlink()
        eventually(lambda: psutil.Process(process).status() == psutil.STATUS_STOPPED)
        return process


if directory := os.environ.get(DIRECTORY):
    sent, least = count(1), int(os.environ[SENDS])

    @after_task_publish.connect(weak=False)
    def stop_where_armed(**_: object) -> None:
        """Stop this process where the test has asked for it."""
        if next(sent) < least:
            return
        with suppress(FileNotFoundError):
            Path(directory, "armed").rename(Path(directory, f"stopped-{os.getpid()}"))
            os.kill(os.getpid(), signal.SIGSTOP)
