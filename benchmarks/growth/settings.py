"""The settings of a run, and the axes along which one of them grows. Pure."""

from dataclasses import asdict, dataclass, replace
from typing import Any

from benchmarks.changes import BATCH, change
from benchmarks.plain import record

RECORD_BYTES = len(record(change(1))["Data"])
"""Bytes of a record without filler."""
MESSAGE_BYTES = 1_000_000
"""Bytes of a message's records, at most."""


@dataclass(frozen=True)
class Setting:
    """The load of a run, and who forwards it."""

    changes_per_message: int = BATCH
    record_bytes: int = RECORD_BYTES
    connections: int = 1
    """Of the audience, each with another stream."""
    streams: int = 1
    """Registered ones, which the messages are for by turns."""
    workers: int = 1
    concurrency: int = 2
    """Pool processes of a worker."""
    latency_ms: int = 0
    """Milliseconds that Firehose takes for a call."""

    @property
    def message_changes(self) -> int:
        """Changes of a message: fewer of large ones."""
        return max(min(self.changes_per_message, MESSAGE_BYTES // self.record_bytes), 1)

    @property
    def filler_bytes(self) -> int:
        """Bytes that make a record as large as it is to be."""
        return max(self.record_bytes - RECORD_BYTES, 0)


@dataclass(frozen=True)
class Axis:
    """A setting that grows while the others stay."""

    name: str
    """The field of `Setting`."""
    label: str
    values: tuple[int, ...]
    base: Setting = Setting()

    def settings(self) -> list[Setting]:
        """The settings of its runs."""
        return [replace(self.base, **{self.name: value}) for value in self.values]


@dataclass(frozen=True)
class Point:
    """The result of a run."""

    axis: str
    value: int
    records_per_second: float
    """By the clock."""
    cpu_microseconds: float
    """CPU of the workers for a record."""
    redis_microseconds: float
    """CPU of Redis for a record."""
    redis_bytes: float
    """Bytes of Redis for a record that waits for its stream."""

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        content = asdict(self)
        return {
            name: round(value, 2) if isinstance(value, float) else value for name, value in content.items()
        }


AXES = (
    Axis("changes_per_message", "changes a message", (1, 5, 20, 100, 500)),
    Axis("record_bytes", "bytes of a record", (RECORD_BYTES, 1_000, 3_000, 10_000, 30_000, 100_000)),
    Axis("connections", "connections of an audience", (1, 2, 5, 10, 20)),
    Axis("streams", "registered streams", (1, 10, 100, 1_000, 10_000)),
    Axis("workers", "workers with a pool of 2", (1, 2, 4)),
    Axis(
        "latency_ms",
        "milliseconds a call of Firehose",
        (0, 10, 50, 100, 200),
        Setting(streams=4, concurrency=8),
    ),
)
