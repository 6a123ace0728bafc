"""The contenders, and how a run of one is measured.

The messages are enqueued before the clock starts, under a name that nobody consumes,
and renamed to their queue when the workers are idle and ready. CPU time is that of the
workers and their pool processes between then and the last record's arrival.
"""

import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from celery import Celery

from benchmarks.changes import AUDIENCE, BATCH, change
from benchmarks.stack import Stack, cpu_seconds, members_of
from benchmarks.stack import running as stack
from devstack import processes
from devstack.interruption import Interruptions
from worker.config import read_settings
from worker.services import connect

BACKLOG = "benchmark:backlog"


@dataclass(frozen=True)
class Contender:
    """A way to get changes into a stream."""

    name: str
    app: str
    """The argument of `celery -A`; empty for a loop without Celery."""
    task: str
    queue: str
    changes_per_message: int
    share: float
    """The share of the run's records, so that slow contenders take no longer than fast ones."""

    def kwargs(self, changes: list[dict[str, Any]]) -> dict[str, Any]:
        """A message's arguments."""
        return {"change": changes[0]} if self.task == "plain.put_record" else {"changes": changes}


CONTENDERS = [
    Contender(
        "audience-firehose, 500 changes a message", "worker", "audience.forward", "audience.changes", BATCH, 1
    ),
    Contender(
        "audience-firehose, 1 change a message", "worker", "audience.forward", "audience.changes", 1, 0.05
    ),
    Contender(
        "plain Celery, put_record, a task a change", "benchmarks.plain", "plain.put_record", "plain", 1, 0.05
    ),
    Contender(
        "plain Celery, put_record_batch, a task per 500",
        "benchmarks.plain",
        "plain.put_record_batch",
        "plain",
        BATCH,
        1,
    ),
    Contender("bare boto3 loop over ready bytes", "", "", "", BATCH, 1),
]


@dataclass(frozen=True)
class Result:
    """The result of a run."""

    name: str
    records: int
    wall_seconds: float
    cpu_seconds: float
    """CPU seconds of the workers, without Redis, Firehose and the caller."""

    @property
    def records_per_second(self) -> float:
        return self.records / self.wall_seconds

    @property
    def records_per_cpu_second(self) -> float:
        return self.records / self.cpu_seconds


class Bench:
    """Runs of contenders against one stack."""

    def __init__(self, stack: Stack, concurrency: int) -> None:
        self._stack = stack
        self._concurrency = concurrency

    def run(self, contender: Contender, records: int) -> Result:
        """Let a contender forward this many records."""
        if not contender.app:
            return self._run_bare(contender, records)
        broker, firehose = self._stack.broker, self._stack.firehose
        broker.flushdb()
        self._enqueue(contender, records)
        broker.rename(contender.queue, BACKLOG)
        with self._stack.workers(1, self._concurrency, app=contender.app) as workers:
            members = members_of(workers)
            target, before = firehose.counted() + records, cpu_seconds(members)
            started = time.perf_counter()
            broker.rename(BACKLOG, contender.queue)
            self._stack.wait_for(lambda: firehose.counted() >= target, f"{records} records delivered")
            wall = time.perf_counter() - started
            return Result(contender.name, records, wall, cpu_seconds(members) - before)

    def _run_bare(self, contender: Contender, records: int) -> Result:
        code = (
            "import sys, time, resource; from benchmarks.plain import bare_loop, client; client();"
            "c = time.process_time(); t = time.perf_counter(); bare_loop(int(sys.argv[1]));"
            "print(time.perf_counter() - t, time.process_time() - c)"
        )
        done = subprocess.run(
            [sys.executable, "-c", code, str(records)],
            env={**os.environ, **self._stack.env},
            cwd=processes.ROOT,
            check=True,
            capture_output=True,
            text=True,
        )
        wall, cpu = map(float, done.stdout.split())
        return Result(contender.name, records, wall, cpu)

    def _enqueue(self, contender: Contender, records: int) -> None:
        caller = Celery(broker=self._stack.env["CELERY_BROKER_URL"])
        for start in range(0, records, contender.changes_per_message):
            changes = [change(number) for number in range(start, start + contender.changes_per_message)]
            caller.send_task(contender.task, kwargs=contender.kwargs(changes), queue=contender.queue)


@contextmanager
def bench(directory: Path, concurrency: int, interruptions: Interruptions) -> Iterator[Bench]:
    """The servers, up for as long as the context lasts, with the benchmark's audience connected."""
    with stack(directory, interruptions) as ready:
        _connect(ready.env)
        yield Bench(ready, concurrency)


def _connect(env: Mapping[str, str]) -> None:
    registry = connect(read_settings(env)).registry
    registry.configure(name="benchmark")
    registry.connect(audience_id=AUDIENCE, configuration="benchmark", delivery_stream_name="benchmark")
