"""The closed set of metrics, in Prometheus's form.

All figures come from Redis and the broker, so that they are the installation's and a restart loses none.

    audience_firehose_records_total{stream,outcome}
    audience_firehose_queue_messages{queue}
    audience_firehose_oldest_message_seconds{queue}
    audience_firehose_stream_state{stream,state}         1 for the state that the stream is in, 0 for others
    audience_firehose_delivery_seconds                   histogram, enqueued to accepted by Firehose
    audience_firehose_open_alerts{severity}
    audience_firehose_workers

`outcome` is enqueued, delivered, refused, dead, discarded or skipped.
`stream` is the name of the stream's queue; records that were for no stream have the stream `none`.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from math import inf

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.metrics_core import Metric

from worker.failures.alert_types import Severity
from worker.state.counters import NO_STREAM, Counts
from worker.state.history import BUCKET_SECONDS, DeliverySeconds
from worker.status import StreamState

PREFIX = "audience_firehose_"


@dataclass(frozen=True)
class StreamFigures:
    """The figures of a stream."""

    name: str
    state: StreamState
    counts: Counts


@dataclass(frozen=True)
class Figures:
    """The installation at one moment."""

    streams: Iterable[StreamFigures]
    without_stream: Counts
    queue_messages: Mapping[str, int]
    oldest_message_seconds: Mapping[str, float]
    delivery_seconds: DeliverySeconds
    open_alerts: Mapping[Severity, int]
    workers: int


def exposition(figures: Figures) -> bytes:
    """The figures as Prometheus reads them."""
    registry = CollectorRegistry()
    registry.register(_Collector(figures))
    return generate_latest(registry)


class _Collector:
    def __init__(self, figures: Figures) -> None:
        self._figures = figures

    def collect(self) -> Iterator[Metric]:
        """Called by prometheus_client."""
        yield from (_records(self._figures), *_queues(self._figures), _states(self._figures))
        yield _delivery_seconds(self._figures.delivery_seconds)
        alerts = GaugeMetricFamily(f"{PREFIX}open_alerts", "Alerts that are open", labels=["severity"])
        for severity in Severity:
            alerts.add_metric([severity], self._figures.open_alerts.get(severity, 0))
        yield alerts
        yield GaugeMetricFamily(f"{PREFIX}workers", "Workers that answer", self._figures.workers)


def _records(figures: Figures) -> Metric:
    family = CounterMetricFamily(
        f"{PREFIX}records", "Records by stream and outcome", labels=["stream", "outcome"]
    )
    for stream in figures.streams:
        _add_outcomes(family, stream.name, stream.counts)
    _add_outcomes(family, NO_STREAM, figures.without_stream)
    return family


def _add_outcomes(family: CounterMetricFamily, stream: str, counts: Counts) -> None:
    outcomes = {
        "enqueued": counts.enqueued,
        "delivered": counts.delivered,
        "refused": counts.refused,
        "dead": counts.dead_lettered,
        "discarded": counts.discarded,
        "skipped": sum(counts.skipped.values()),
    }
    for outcome, records in outcomes.items():
        family.add_metric([stream, outcome], records)


def _queues(figures: Figures) -> Iterator[Metric]:
    messages = GaugeMetricFamily(
        f"{PREFIX}queue_messages", "Messages that no worker has reserved", labels=["queue"]
    )
    oldest = GaugeMetricFamily(
        f"{PREFIX}oldest_message_seconds",
        "Age of the oldest message, or 0",
        labels=["queue"],
    )
    for queue, number in figures.queue_messages.items():
        messages.add_metric([queue], number)
        oldest.add_metric([queue], figures.oldest_message_seconds.get(queue, 0.0))
    yield messages
    yield oldest


def _states(figures: Figures) -> Metric:
    family = GaugeMetricFamily(
        f"{PREFIX}stream_state", "1 for the state that the stream is in", labels=["stream", "state"]
    )
    for stream in figures.streams:
        for state in StreamState:
            family.add_metric([stream.name, state], float(stream.state is state))
    return family


def _delivery_seconds(seconds: DeliverySeconds) -> Metric:
    family = HistogramMetricFamily(
        f"{PREFIX}delivery_seconds", "Seconds from a record's enqueueing to its acceptance by Firehose"
    )
    bounds = ["+Inf" if bound == inf else str(float(bound)) for bound in BUCKET_SECONDS]
    family.add_metric([], list(zip(bounds, seconds.cumulative, strict=True)), seconds.total_seconds)
    return family
