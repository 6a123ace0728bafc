"""Stops the process that imports it (SIGSTOP) at a moment of a task, where a test asks for that.

A worker imports it with `--include stopping_point`. The test writes a file named `armed-MOMENT-TASK`; the
process that next comes to that moment of that task renames it to `stopped-PID` and stops, until the test
kills or continues it. One process stops for each file, and later ones go on.
"""

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from itertools import count
from pathlib import Path

import psutil
from celery.signals import after_task_publish, task_postrun, task_prerun
from waiting import eventually

from worker.broker.redis.reservations import Connected
from worker.broker.runs import HandOver, Obstacle
from worker.queues import FORWARD_RUN

DIRECTORY = "STOPPING_POINT"
"""The environment variable that names the directory of the files."""
SENDS = "STOPPING_POINT_SENDS"
"""The environment variable with the number of messages that a process sends before it may stop."""
ANY = "any"
"""In place of a task: whichever comes first."""
BEGINS, SENT, HANDED_OVER, ENDED = "begins", "sent", "handed-over", "ended"
"""The moments: a task begins; a message that calls a task is sent, or collected by a run; a run is handed
over, and not counted yet; a task has ended."""


class StoppingPoint:
    """The test's side: arms the stopping point, and waits until a process stands at it."""

    def __init__(self, directory: Path, sends: int = 1) -> None:
        self._directory = directory
        self.environment = {
            "PYTHONPATH": os.fspath(Path(__file__).parent),
            DIRECTORY: os.fspath(directory),
            SENDS: str(sends),
        }

    def arm(self, moment: str = SENT, task: str = ANY) -> None:
        """Have the next process that comes to a moment of a task stop there."""
        (self._directory / f"armed-{moment}-{task}").touch()

    def wait(self) -> int:
        """Wait until a process has stopped. Returns its ID."""
        (stopped,) = eventually(lambda: list(self._directory.glob("stopped-*")))
        process = int(stopped.name.partition("-")[2])
        stopped.unlink()
        eventually(lambda: psutil.Process(process).status() == psutil.STATUS_STOPPED)
        return process

    @contextmanager
    def stopped(self) -> Iterator[None]:
        """Wait until a process has stopped, and let it go on in the end, where it is still there."""
        process = self.wait()
        try:
            yield
        finally:
            with suppress(ProcessLookupError):
                os.kill(process, signal.SIGCONT)


if directory := os.environ.get(DIRECTORY):
    sent, least = count(1), int(os.environ[SENDS])

    def stop_where_armed(moment: str, task: str) -> None:
        """Stop this process where the test has asked for it."""
        for name in (task, ANY):
            armed = Path(directory, f"armed-{moment}-{name}")
            with suppress(FileNotFoundError):
                armed.rename(Path(directory, f"stopped-{os.getpid()}"))
                os.kill(os.getpid(), signal.SIGSTOP)

    @task_prerun.connect(weak=False)
    def begins(task: object = None, **_: object) -> None:
        stop_where_armed(BEGINS, str(getattr(task, "name", "")))

    hand_over = Connected.hand_over

    def hand_over_and_stop(self: Connected, run: HandOver) -> dict[str, Obstacle]:
        obstacles = hand_over(self, run)
        stop_where_armed(HANDED_OVER, FORWARD_RUN)
        return obstacles

    Connected.hand_over = hand_over_and_stop  # type: ignore[method-assign]

    @after_task_publish.connect(weak=False)
    def was_sent(sender: str = "", **_: object) -> None:
        if next(sent) >= least:
            stop_where_armed(SENT, sender)

    @task_postrun.connect(weak=False)
    def ended(task: object = None, **_: object) -> None:
        stop_where_armed(ENDED, str(getattr(task, "name", "")))
