"""Who runs, and how a run is measured.

The messages are enqueued before the clock starts, under a name that nobody consumes,
and renamed to their queue when the workers are idle and ready. CPU time is that of the
workers and their pool processes between then and the last record's arrival.
"""

import os
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
from celery import Celery
from redis import Redis

from worker.environment import read
from worker.local import processes
from worker.state import connect

BATCH = 500
AUDIENCE = 123123
TIMEOUT = 300.0
"""Seconds for one contender."""
PARKED = "benchmark:parked"
FAKE_FIREHOSE = processes.ROOT / "tests" / "fakes" / "firehose.py"


@dataclass(frozen=True)
class Contender:
    """One way to get changes into a stream."""

    name: str
    app: str
    """What `celery -A` is given; empty for a loop without Celery."""
    task: str
    queue: str
    changes_per_message: int
    share: float
    """Of the run's records, so that slow ones take no longer than fast ones."""

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
    """What a contender did."""

    name: str
    records: int
    wall_seconds: float
    cpu_seconds: float
    """Of the workers; not of Redis, Firehose or whoever enqueued."""

    @property
    def records_per_second(self) -> float:
        return self.records / self.wall_seconds

    @property
    def records_per_cpu_second(self) -> float:
        return self.records / self.cpu_seconds


def change(number: int) -> dict[str, Any]:
    """A change of the documented example's size, each of another user."""
    return {
        "type": "member_added",
        "audience_id": AUDIENCE,
        "audience_external_name": "LowEngagement",
        "timestamp": 1234565788,
        "user_identities": {
            "CustomerId": f"p.fogg{number}",
            "Email": "",
            "Other": "balloondude83",
            "Other3": "balloongal89",
            "FacebookId": "phileas83",
            "GoogleAdvertisingIdentifier": "phileas83",
        },
    }


class Bench:
    """A private Redis and a Firehose that only counts, and runs against them."""

    def __init__(self, directory: Path, redis_url: str, firehose_url: str, concurrency: int) -> None:
        self._directory = directory
        self._redis_url = redis_url
        self._firehose_url = firehose_url
        self._concurrency = concurrency
        self.env = {
            "CELERY_BROKER_URL": f"{redis_url}/0",
            "AUDIENCE_REDIS_URL": f"{redis_url}/1",
            "AWS_ENDPOINT_URL_FIREHOSE": firehose_url,
            "AWS_ACCESS_KEY_ID": "benchmark",
            "AWS_SECRET_ACCESS_KEY": "benchmark",
        }

    def run(self, contender: Contender, records: int) -> Result:
        """Let a contender forward this many records."""
        if not contender.app:
            return self._run_bare(contender, records)
        broker = Redis.from_url(self.env["CELERY_BROKER_URL"])
        broker.flushdb()
        self._enqueue(contender, records)
        broker.rename(contender.queue, PARKED)
        with self._worker(contender) as workers:
            target, before = self._counted() + records, _cpu_seconds(workers)
            started = time.perf_counter()
            broker.rename(PARKED, contender.queue)
            self._wait_for(lambda: self._counted() >= target)
            wall = time.perf_counter() - started
            return Result(contender.name, records, wall, _cpu_seconds(workers) - before)

    def _run_bare(self, contender: Contender, records: int) -> Result:
        code = (
            "import sys, time, resource; from benchmarks.plain import bare_loop, client; client();"
            "c = time.process_time(); t = time.perf_counter(); bare_loop(int(sys.argv[1]));"
            "print(time.perf_counter() - t, time.process_time() - c)"
        )
        done = subprocess.run(
            [sys.executable, "-c", code, str(records)],
            env={**os.environ, **self.env},
            cwd=processes.ROOT,
            check=True,
            capture_output=True,
            text=True,
        )
        wall, cpu = map(float, done.stdout.split())
        return Result(contender.name, records, wall, cpu)

    def _enqueue(self, contender: Contender, records: int) -> None:
        caller = Celery(broker=self.env["CELERY_BROKER_URL"])
        for start in range(0, records, contender.changes_per_message):
            changes = [change(number) for number in range(start, start + contender.changes_per_message)]
            caller.send_task(contender.task, kwargs=contender.kwargs(changes), queue=contender.queue)

    @contextmanager
    def _worker(self, contender: Contender) -> Iterator[list[psutil.Process]]:
        log = self._directory / f"{contender.task}.log"
        process = processes.worker(
            log, self.env, "--concurrency", str(self._concurrency), "--without-mingle", app=contender.app
        )
        with process:
            processes.wait_for_worker(process)
            main = psutil.Process(process.pid)
            yield [main, *main.children(recursive=True)]

    def _counted(self) -> int:
        with urllib.request.urlopen(self._firehose_url) as reply:
            return int(reply.read())

    def _wait_for(self, is_done: Callable[[], bool]) -> None:
        deadline = time.monotonic() + TIMEOUT
        while not is_done():
            if time.monotonic() > deadline:
                raise TimeoutError(f"not done after {TIMEOUT:.0f} s; the logs are in {self._directory}")
            time.sleep(0.02)


@contextmanager
def bench(directory: Path, concurrency: int) -> Iterator[Bench]:
    """The servers, up for as long as the context lasts, with the benchmark's audience connected."""
    port = processes.free_port()
    command: list[str | Path] = [sys.executable, FAKE_FIREHOSE, str(port)]
    with (
        processes.redis(directory) as (_, redis_url),
        processes.Process("firehose", command, directory / "firehose.log", {}) as firehose,
    ):
        firehose.wait_until(lambda: processes.listens(port))
        ready = Bench(directory, redis_url, f"http://{processes.LOOPBACK}:{port}", concurrency)
        _connect(ready.env)
        yield ready


def _connect(env: Mapping[str, str]) -> None:
    registry = connect(read(env)).registry
    registry.configure(name="benchmark")
    registry.connect(audience_id=AUDIENCE, configuration="benchmark", delivery_stream_name="benchmark")


def _cpu_seconds(workers: list[psutil.Process]) -> float:
    times = [worker.cpu_times() for worker in workers]
    return float(sum(each.user + each.system for each in times))
