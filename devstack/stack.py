"""The local stack: Redis, Firehose, workers and dashboard, for as long as its context lasts."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from cryptography.fernet import Fernet

from devstack import processes
from devstack.aws import CREDENTIALS, LocalAws
from devstack.interruption import Interruptions
from devstack.ports import free_port
from devstack.processes import LOOPBACK, Process, dashboard_command, moto_command, worker_command

WORKERS = 2
CONCURRENCY = 2
SHORT_RETRIES = {"AUDIENCE_RETRY_MAX": "3", "AUDIENCE_RETRY_BACKOFF_MAX": "1"}
"""Retries that are spent within seconds; the defaults last for hours."""


class Ports(NamedTuple):
    """The ports that the servers get where they are free; 0 is any free port."""

    redis: int = 0
    firehose: int = 0
    dashboard: int = 0


@dataclass(frozen=True)
class Stack:
    """The running processes and their addresses."""

    env: dict[str, str]
    """The environment variables of the workers, the dashboard and the command. Holds a key."""
    aws: LocalAws
    dashboard_url: str
    processes: Sequence[Process]


@contextmanager
def running(directory: Path, interruptions: Interruptions, ports: Ports) -> Iterator[Stack]:
    """Start a Redis, a Firehose with S3 behind it, workers and a dashboard. Raises `StartError`."""
    parts = ExitStack()
    started: list[Process] = []

    def start(name: str, command: Sequence[str], env: dict[str, str]) -> Process:
        log = directory / f"{name}.log"
        with interruptions.held():
            started.append(parts.enter_context(Process(name, processes.installed(command), log, env)))
        return started[-1]

    try:
        with interruptions.held():
            redis, redis_url = parts.enter_context(processes.redis(directory, port=free_port(ports.redis)))
        aws_port = free_port(ports.firehose)
        dashboard_port = free_port(ports.dashboard)
        aws = LocalAws(f"http://{LOOPBACK}:{aws_port}")
        env = _environment(redis_url, aws.url)
        moto = start("moto", moto_command(LOOPBACK, aws_port), {})
        workers = [
            start(f"worker-{number}", _worker_command(number), env) for number in range(1, WORKERS + 1)
        ]
        dashboard = start("dashboard", dashboard_command(LOOPBACK, dashboard_port), env)
        moto.wait_until(lambda: processes.listens(aws_port))
        for worker in workers:
            processes.wait_for_worker(worker)
        dashboard.wait_until(lambda: processes.listens(dashboard_port))
        yield Stack(env, aws, f"http://{LOOPBACK}:{dashboard_port}", [redis, *started])
    finally:
        with interruptions.held():
            for process in started:
                process.terminate()
            parts.close()


def _worker_command(number: int) -> tuple[str, ...]:
    return (*worker_command(), "-n", f"worker-{number}@%h", "--concurrency", str(CONCURRENCY))


def _environment(redis_url: str, firehose_url: str) -> dict[str, str]:
    return {
        "CELERY_BROKER_URL": f"{redis_url}/0",
        "AUDIENCE_REDIS_URL": f"{redis_url}/1",
        "AUDIENCE_SECRET_KEY": Fernet.generate_key().decode(),
        "AWS_ENDPOINT_URL_FIREHOSE": firehose_url,
        **CREDENTIALS,
        **SHORT_RETRIES,
    }
