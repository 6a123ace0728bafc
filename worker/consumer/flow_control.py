"""Composes a worker's flow control. No other module passes the consumer's parts to `worker.flow`."""

import time
from collections.abc import Callable
from functools import partial

from celery.worker.consumer import Consumer

from worker.config import current_settings
from worker.failures.alert_types import Failure
from worker.failures.alerts import Alerts
from worker.failures.worker_trouble import report_worker_trouble
from worker.flow.admission import Admission
from worker.flow.circuit_breakers import CircuitBreakers
from worker.flow.concurrency import ConcurrencyLimits, Pool, ProbeLimit
from worker.flow.control import FlowControl
from worker.flow.prefetched import PrefetchedMessages, StillConsumed
from worker.flow.queue_pauses import QueuePauses
from worker.flow.rate_limits import RateLimits
from worker.flow.shared_limits import SharedLimits
from worker.flow.worker_troubles import WorkerTroubles
from worker.queues import stream_of
from worker.retry_policy import longest_open
from worker.state.counters import Counters
from worker.state.registry import Registry


def make_flow_control(
    consumer: Consumer,
    *,
    admission: Admission,
    circuit_breakers: CircuitBreakers,
    registry: Registry,
    alerts: Alerts,
    counters: Counters,
    sends_ahead: bool,
    clock: Callable[[], float] = time.time,
    monotonic: Callable[[], float] = time.monotonic,
) -> FlowControl:
    """Compose a worker's flow control from its consumer and what the workers share.

    `sends_ahead` says whether the broker sends a queue's messages before the worker asks for them.
    """
    pauses = QueuePauses(consumer.stream_queues, consumer.timer, monotonic)
    pool = Pool(lambda: pool_size(consumer))
    probes = ProbeLimit(pool)
    limited = QueuePauses(StillConsumed(), consumer.timer, monotonic) if sends_ahead else pauses
    concurrency = ConcurrencyLimits(pool, limited, monotonic)
    return FlowControl(
        concurrency=concurrency,
        probes=probes,
        rate_limits=RateLimits({} if consumer.disable_rate_limits else consumer.task_buckets, pauses),
        shared_limits=SharedLimits(
            admission=admission,
            circuit_breakers=circuit_breakers,
            quota=lambda stream: registry.snapshot().quota(stream),
            probes=probes,
            pauses=pauses,
        ),
        worker_troubles=WorkerTroubles(
            pauses=pauses,
            stream_queues=lambda: consumer.stream_queues.wanted,
            report=partial(report_worker_trouble, alerts, consumer.hostname),
            delivered=lambda queue: counters.of(stream_of(queue)).delivered,
            open_breaker=partial(_open_breaker, circuit_breakers, registry),
            monotonic=monotonic,
        ),
        prefetched=PrefetchedMessages(pool, concurrency, consumer.timer) if sends_ahead else None,
        clock=clock,
    )


def _open_breaker(
    circuit_breakers: CircuitBreakers, registry: Registry, queue: str, failure: Failure
) -> None:
    """Open the breaker of a queue's stream. No batch would ever probe a stream without a connection."""
    stream, settings = stream_of(queue), current_settings()
    if stream in registry.snapshot().streams:
        circuit_breakers.record_failure(
            stream,
            failure.alert_type,
            first=settings.retry_backoff,
            longest=longest_open(settings.retry_backoff_max),
        )


def pool_size(consumer: Consumer) -> int:
    """How many processes the pool may have. With `--autoscale` it grows only once all are occupied."""
    processes: int = consumer.pool.num_processes
    autoscaler = consumer.controller.autoscaler
    return max(processes, autoscaler.max_concurrency) if autoscaler else processes
