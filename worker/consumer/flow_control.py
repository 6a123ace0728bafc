"""Composes a worker's flow control. No other module passes the consumer's parts to `worker.flow`."""

import time
from collections.abc import Callable
from functools import partial

from celery.worker.consumer import Consumer

from worker.failures.alerts import Alerts
from worker.failures.worker_trouble import report_worker_trouble
from worker.flow.admission import Admission
from worker.flow.circuit_breakers import CircuitBreakers
from worker.flow.concurrency import ConcurrencyLimits, Pool, ProbeLimit
from worker.flow.control import FlowControl
from worker.flow.queue_pauses import QueuePauses
from worker.flow.rate_limits import RateLimits
from worker.flow.shared_limits import SharedLimits
from worker.flow.worker_troubles import WorkerTroubles
from worker.state.registry import Registry


def make_flow_control(
    consumer: Consumer,
    *,
    admission: Admission,
    circuit_breakers: CircuitBreakers,
    registry: Registry,
    alerts: Alerts,
    clock: Callable[[], float] = time.time,
    monotonic: Callable[[], float] = time.monotonic,
) -> FlowControl:
    """Compose a worker's flow control from its consumer and what the workers share."""
    pauses = QueuePauses(consumer.stream_queues, consumer.timer, monotonic)
    pool = Pool(lambda: pool_size(consumer))
    probes = ProbeLimit(pool)
    return FlowControl(
        concurrency=ConcurrencyLimits(pool, pauses, monotonic),
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
            monotonic=monotonic,
        ),
        clock=clock,
    )


def pool_size(consumer: Consumer) -> int:
    """How many processes the pool may have. With `--autoscale` it grows only once all are occupied."""
    processes: int = consumer.pool.num_processes
    autoscaler = consumer.controller.autoscaler
    return max(processes, autoscaler.max_concurrency) if autoscaler else processes
