"""A private Redis, a Firehose that only counts, and workers against them."""

import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import psutil
from redis import Redis

from benchmarks.firehose import Firehose
from devstack import processes
from devstack.interruption import Interruptions
from devstack.ports import free_port
from worker.firehose.regions import regions

TIMEOUT_SECONDS = 300.0
"""Seconds for anything that is waited for."""
POLL_INTERVAL_SECONDS = 0.02
SHOWN_OF_A_LOG = 2000
"""Characters."""
NO_QUOTA = "10000MiB/s+1000000requests/s+100000000records/s"
"""A quota that no stream here reaches: with those of AWS, nothing else would be measured."""


class Late(Exception):
    """Something did not happen in time. Says what, and what the workers wrote last."""


class Worker:
    """A worker and its pool."""

    def __init__(self, process: processes.Process) -> None:
        self.process = process

    @property
    def main(self) -> psutil.Process:
        """The process that talks to the broker."""
        return psutil.Process(self.process.pid)

    def members(self) -> list[psutil.Process]:
        """The main process and those of its pool."""
        return [self.main, *self.main.children(recursive=True)]

    def pin(self, core: int) -> None:
        """Have it run on one core, and the pool processes that it starts, too."""
        for member in self.members():
            member.cpu_affinity([core])


class Stack:
    """The servers, and the workers that are started against them."""

    def __init__(
        self,
        directory: Path,
        interruptions: Interruptions,
        *,
        redis_url: str,
        firehose_port: int,
        servers: Sequence[processes.Process],
    ) -> None:
        self.servers = [psutil.Process(server.pid) for server in servers]
        self.firehose = Firehose(firehose_port)
        self.env = {
            "CELERY_BROKER_URL": f"{redis_url}/0",
            "AUDIENCE_REDIS_URL": f"{redis_url}/1",
            "AUDIENCE_STREAM_QUOTAS": ",".join(f"{region}={NO_QUOTA}" for region in regions()),
            "AWS_ENDPOINT_URL_FIREHOSE": self.firehose.url,
            "AWS_ACCESS_KEY_ID": "benchmark",
            "AWS_SECRET_ACCESS_KEY": "benchmark",
        }
        self.broker = Redis.from_url(self.env["CELERY_BROKER_URL"])
        self._directory = directory
        self._interruptions = interruptions
        self._started = 0
        self._logs: list[Path] = []

    @contextmanager
    def workers(
        self,
        count: int,
        concurrency: int,
        *options: str,
        env: Mapping[str, str] | None = None,
        app: str = "worker",
    ) -> Iterator[list[Worker]]:
        """Workers that consume, for as long as the context lasts."""
        arguments = ("--concurrency", str(concurrency), "--without-mingle", *options)
        started: list[processes.Process] = []
        with ExitStack() as parts:
            try:
                for _ in range(count):
                    with self._interruptions.held():
                        process = self._start(arguments, {**self.env, **(env or {})}, app)
                        started.append(parts.enter_context(process))
                for process in started:
                    processes.wait_for_worker(process)
                yield [Worker(process) for process in started]
            finally:
                with self._interruptions.held():
                    for process in started:
                        process.terminate()
                    parts.close()

    def rewrite_append_only_file(self) -> None:
        """Have Redis write the file anew, so that it does not do so by chance in the run that follows."""
        self.broker.bgrewriteaof()
        self.wait_for(lambda: not self._is_rewriting(), "the append-only file written anew")

    def _is_rewriting(self) -> bool:
        info: dict[str, Any] = self.broker.info("persistence")
        return bool(info["aof_rewrite_in_progress"] or info["aof_rewrite_scheduled"])

    def wait_for(self, is_done: Callable[[], bool], what: str, timeout: float = TIMEOUT_SECONDS) -> None:
        """Wait until something is so. Raises `Late`, naming it as `what`."""
        deadline = time.monotonic() + timeout
        while not is_done():
            if time.monotonic() > deadline:
                raise Late(f"{what}: not so after {timeout:.0f} s{self._last_words()}")
            time.sleep(POLL_INTERVAL_SECONDS)

    def _start(self, arguments: Sequence[str], env: Mapping[str, str], app: str) -> processes.Process:
        self._started += 1
        name = f"worker-{self._started}"
        self._logs.append(self._directory / f"{name}.log")
        return processes.worker(self._logs[-1], env, *arguments, name=name, app=app)

    def _last_words(self) -> str:
        if not self._logs:
            return ""
        end = self._logs[-1].read_text("utf-8", errors="replace")[-SHOWN_OF_A_LOG:]
        return f"; the end of {self._logs[-1].name}:\n{end}"


@contextmanager
def running(directory: Path, interruptions: Interruptions) -> Iterator[Stack]:
    """The servers, up for as long as the context lasts. Raises `StartError`."""
    port = free_port()
    command = (sys.executable, "-m", "devstack.firehose", str(port))
    with ExitStack() as parts:
        try:
            with interruptions.held():
                redis, redis_url = parts.enter_context(processes.redis(directory))
                log = directory / "firehose.log"
                firehose = parts.enter_context(processes.Process("firehose", command, log, {}))
            firehose.wait_until(lambda: processes.listens(port))
            servers = (redis, firehose)
            yield Stack(directory, interruptions, redis_url=redis_url, firehose_port=port, servers=servers)
        finally:
            with interruptions.held():
                parts.close()


def cpu_seconds(members: Sequence[psutil.Process]) -> float:
    """Return the CPU seconds that these processes have used so far."""
    times = [member.cpu_times() for member in members]
    return float(sum(each.user + each.system for each in times))


def members_of(workers: Sequence[Worker]) -> list[psutil.Process]:
    """All processes of some workers."""
    return [member for worker in workers for member in worker.members()]
