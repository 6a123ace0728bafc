"""The CPU of a change that is sent alone over RabbitMQ, beside a plain Celery task.

A worker is stopped while its messages are sent, as RabbitMQ cannot rename a queue. It goes on within its
heartbeat.
"""

import os
import signal
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from time import perf_counter, sleep
from typing import Any
from uuid import uuid4

from celery import Celery
from kombu import Producer

from benchmarks.bench import Bench
from benchmarks.changes import AUDIENCE
from benchmarks.contenders import CONCURRENCY, PLAIN_SINGLES, RUN_SECONDS, SINGLES, Contender
from benchmarks.figures import Figure, NotMeasured, at_least, of_pairs
from benchmarks.messages import Load
from benchmarks.plain import STREAM
from benchmarks.scenario import Scenario
from benchmarks.stack import Stack, Worker, cpu_seconds, members_of
from devstack import processes

VIRTUAL_HOST = "benchmark"
FIRST_MESSAGES = 500
"""Messages of the first wave, to processes that have done nothing yet."""
WAVES = 4
"""Waves before the one that counts. Each takes longer than the one before, until they last long enough."""
MAX_MESSAGES = 15_000
"""As many as are sent well within a heartbeat."""
SETTLE_SECONDS = 0.3
"""Seconds for the last acknowledgements."""


def singles(bench: Bench) -> Iterator[Figure]:
    """Changes per CPU second of the workers, in pairs."""
    bench.connect_audience(AUDIENCE, STREAM)
    pairs = []
    with (
        tempfile.TemporaryDirectory() as directory,
        processes.rabbitmq(Path(directory), VIRTUAL_HOST) as (_, url),
    ):
        env = {"CELERY_BROKER_URL": f"{url}/{VIRTUAL_HOST}"}
        for number in range(bench.pairs):
            bench.say(f"run {number + 1} of {bench.pairs}")
            plain, ours = (_changes_per_cpu_second(bench, env, each) for each in (PLAIN_SINGLES, SINGLES))
            pairs.append((plain, ours))
    figure = of_pairs("RabbitMQ: 1 change a message, times a plain task", "changes/CPU s", pairs)
    yield figure.with_targets(at_least(10), at_least(10))


def _changes_per_cpu_second(bench: Bench, env: Mapping[str, str], contender: Contender) -> float:
    stack = bench.stack
    concurrency = bench.concurrency(CONCURRENCY)
    with stack.workers(1, concurrency, env=env, app=contender.app) as workers, _producer(env) as producer:
        messages = FIRST_MESSAGES
        for _ in range(WAVES):
            seconds, _ = _forward(stack, workers, producer, contender.load, messages)
            messages = min(max(round(messages / seconds * bench.seconds(RUN_SECONDS)), 1), MAX_MESSAGES)
        _, cpu = _forward(stack, workers, producer, contender.load, messages)
    if not cpu:
        raise NotMeasured("the run was too short for the clock of the processes; try more --seconds")
    return messages / cpu


def _forward(
    stack: Stack, workers: Sequence[Worker], producer: Producer, load: Load, messages: int
) -> tuple[float, float]:
    """Have so many messages wait, and be forwarded: the seconds, and the CPU seconds of the workers."""
    members = members_of(workers)
    target = stack.firehose.counted() + messages
    with _stopped(workers):
        _send(producer, load, messages)
        cpu, started = cpu_seconds(members), perf_counter()
    stack.wait_for(lambda: stack.firehose.counted() >= target, f"{messages:,} records delivered")
    seconds = perf_counter() - started
    sleep(SETTLE_SECONDS)
    return seconds, cpu_seconds(members) - cpu


@contextmanager
def _stopped(workers: Sequence[Worker]) -> Iterator[None]:
    """Stop the workers' main processes, which talk to the broker."""
    for worker in workers:
        os.kill(worker.process.pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for worker in workers:
            os.kill(worker.process.pid, signal.SIGCONT)


@contextmanager
def _producer(env: Mapping[str, str]) -> Iterator[Producer]:
    """The means to send messages, of an app that is another one."""
    app = Celery("another-app", broker=env["CELERY_BROKER_URL"])
    with app.connection_for_write() as connection, app.amqp.Producer(connection) as producer:
        yield producer


def _send(producer: Producer, load: Load, messages: int) -> None:
    """Send messages as Celery does, by its own functions, only without looking at the queue each time."""
    app = Celery("another-app")
    for number in range(messages):
        made: Any = app.amqp.as_task_v2(str(uuid4()), load.task, kwargs=load.arguments(AUDIENCE, number))
        producer.publish(
            made.body,
            exchange="",
            routing_key=load.queue,
            serializer="json",
            headers=made.headers,
            delivery_mode=2,
            **made.properties,
        )


SCENARIOS = [Scenario("rabbitmq", "CPU of a change over RabbitMQ, beside plain Celery, in pairs", singles)]
