"""Names of queues, tasks and streams. Nobody formats one twice."""

from functools import lru_cache
from typing import NamedTuple

CHANGES_QUEUE = "audience.changes"
DROPPED_QUEUE = "audience.dropped"
"""RabbitMQ's dead-letter exchange and queue: what the broker itself drops from a stream's queue."""
DEFAULT_QUEUE = "celery"
"""Celery's own, where calls go whose sender forgot `queue=`."""
FORWARD = "audience.forward"
"""The producer task."""
FORWARD_MPARTICLE = "audience.forward_mparticle"
"""The producer task for mParticle's requests."""
FORWARD_RUN = "audience.forward_run"
"""The task that forwards a run: messages of `audience.changes` that a worker has reserved together. The
worker makes its calls itself; they are in no queue."""
RUN_MESSAGES = 1_000
"""Messages of a run at most. Redis takes some 10 ms to reserve so many, and does nothing else meanwhile."""
SEQUENCE_HEADER = "sequence"
"""The header of a producer's message that holds its place in the order of all: decimal, at most 16 digits."""
ENQUEUED_AT_HEADER = "enqueued_at"
"""The header of a delivery message that holds when its records were enqueued: Unix seconds."""
RECORDS_HEADER = "firehose_records"
"""The header of a delivery message that holds how many Firehose records its batch has."""
BYTES_HEADER = "firehose_bytes"
"""The header of a delivery message that holds how many bytes these have, before base64."""
STREAM_QUEUE_PREFIX = "firehose"
DELAY_QUEUE_PREFIX = "audience.waiting"
STREAMS_CACHED = 20_000
PARTS = 4
"""The parts of a stream's queue: the prefix, the configuration, the region, and a name that may hold dots."""


class Stream(NamedTuple):
    """A delivery stream: the same name under another AWS identity is another stream."""

    configuration: str
    region: str
    name: str

    @property
    def queue(self) -> str:
        """The stream's queue, which also identifies it in the state."""
        return f"{STREAM_QUEUE_PREFIX}.{self.configuration}.{self.region}.{self.name}"

    @property
    def task(self) -> str:
        """The task that delivers into it."""
        return delivery_task(self.region)


def delivery_task(region: str) -> str:
    """Name a region's task: a task for each, so that `task_annotations` can hold a rate limit for each."""
    return f"audience.deliver.{region}"


def delay_queue(seconds: int) -> str:
    """Name RabbitMQ's delay queue for so many seconds; messages of all queues wait in it."""
    return f"{DELAY_QUEUE_PREFIX}.{seconds}"


def is_stream_queue(queue: str) -> bool:
    """Whether a queue is some stream's."""
    return queue.startswith(f"{STREAM_QUEUE_PREFIX}.") and queue.count(".") >= PARTS - 1


@lru_cache(maxsize=STREAMS_CACHED)
def stream_of(queue: str) -> Stream:
    """The stream whose queue this is: a name may hold dots, what stands before it may not."""
    _, configuration, region, name = queue.split(".", PARTS - 1)
    return Stream(configuration, region, name)
