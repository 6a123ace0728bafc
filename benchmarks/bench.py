"""The parts that the runs of all scenarios share."""

import json
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from benchmarks.backlog import Template, delivery_templates, enqueue_batches, release
from benchmarks.changes import BATCH
from benchmarks.figures import NotMeasured
from benchmarks.firehose import Call
from benchmarks.stack import Stack, Worker
from worker.config import read_settings
from worker.queues import Stream
from worker.services import Services, connect
from worker.state.registry import CONNECTIONS, VERSION, connection_id

CONFIGURATION = "benchmark"
REGION = "us-east-1"
WARM_STREAMS = ("warm-1", "warm-2")
"""Two, as one may not fill a worker's pool."""
WARM_DELAY_SECONDS = 0.2
"""Seconds that Firehose takes meanwhile, so that each process of a pool gets its share."""
RAMP_SECONDS = 1.0
"""Seconds after a backlog is released that are not counted."""


@dataclass
class Bench:
    """The servers and options of a scenario."""

    stack: Stack
    given_seconds: float | None
    given_concurrency: int | None
    given_records: int | None
    pairs: int
    streams: dict[Stream, int] = field(default_factory=dict)
    """The registered ones, each with its audience."""

    def __post_init__(self) -> None:
        self.reset()

    def seconds(self, default: float) -> float:
        """How long a run lasts."""
        return default if self.given_seconds is None else self.given_seconds

    def concurrency(self, default: int) -> int:
        """A worker's pool processes."""
        return default if self.given_concurrency is None else self.given_concurrency

    def records(self, default: int) -> int:
        """How many records a scenario sends that counts them."""
        return default if self.given_records is None else self.given_records

    def say(self, text: str) -> None:
        """Tell whoever waits."""
        print(f"  {text} …", file=sys.stderr, flush=True)

    def reset(self) -> None:
        """As after the installation: nothing queued, nothing registered but the configuration."""
        self.stack.broker.flushall()
        self.stack.rewrite_append_only_file()
        self.stack.firehose.behave({})
        self.stack.firehose.calls()
        # A new one, as it remembers what it has read.
        self.services: Services = connect(read_settings(self.stack.env))
        self.services.registry.configure(name=CONFIGURATION)
        self.streams = {}

    def connect_audience(self, audience: int, *names: str) -> None:
        """Connect an audience to streams of the usual region."""
        for name in names:
            self.services.registry.connect(
                audience_id=audience, configuration=CONFIGURATION, delivery_stream_name=name
            )

    def connect(self, name: str, region: str = REGION, stream_quota: str | None = None) -> Stream:
        """A new stream with an audience of its own."""
        audience = len(self.streams) + 1
        quota = {} if stream_quota is None else {"stream_quota": stream_quota}
        self.services.registry.connect(
            audience_id=audience,
            configuration=CONFIGURATION,
            delivery_stream_name=name,
            region=region,
            **quota,
        )
        stream = Stream(CONFIGURATION, region, name)
        self.streams[stream] = audience
        return stream

    def connect_many(self, count: int) -> list[Stream]:
        """So many new streams. Written at once: `connect` looks at the whole registry each time."""
        first = self.connect("stream-0")
        connections = self.services.registry.refresh().connections
        known = next(found for found in connections.values() if found.delivery_stream_name == first.name)
        stored = json.loads(self.services.redis.hget(CONNECTIONS, connection_id(known)))
        entries: dict[str, str] = {}
        for number in range(1, count):
            stream, audience = Stream(CONFIGURATION, REGION, f"stream-{number}"), len(self.streams) + 1
            settings = {**stored, "audience_id": audience, "delivery_stream_name": stream.name}
            entries[f"{audience}-{number:08x}"] = json.dumps(settings)
            self.streams[stream] = audience
        if entries:
            self.services.redis.hset(CONNECTIONS, mapping=entries)
            self.services.redis.incr(VERSION)
        return [stream for stream in self.streams if stream.name.startswith("stream-")]

    def batches(self, records: int) -> dict[Stream, Template]:
        """A batch of so many records for each registered stream; made by a worker that ends again."""
        return delivery_templates(self.stack, self.streams, records)

    def delay(self, batches: Mapping[Stream, Template], messages: int) -> None:
        """Have so many copies of each of these batches wait where nobody sees them."""
        enqueue_batches(
            self.stack.broker, {stream.queue: [found] for stream, found in batches.items()}, messages
        )

    def release(self, *streams: Stream) -> float:
        """Move the backlog of these streams into their queues. Returns the moment (monotonic seconds)."""
        release(self.stack.broker, [stream.queue for stream in streams])
        return time.monotonic()

    def connect_warm(self) -> list[Stream]:
        """The streams that `warm_workers` needs."""
        return [self.connect(name) for name in WARM_STREAMS]

    @contextmanager
    def warm_workers(
        self,
        templates: Mapping[Stream, Template],
        count: int = 1,
        *,
        concurrency: int,
        env: Mapping[str, str] | None = None,
        each: int = 3,
    ) -> Iterator[list[Worker]]:
        """Workers whose pool processes have all made their client and delivered about so many batches."""
        warm = {stream: found for stream, found in templates.items() if stream.name in WARM_STREAMS}
        messages = each * count * concurrency
        self.delay(warm, messages)
        target = messages * len(warm)
        self.stack.firehose.behave({name: {"delay": WARM_DELAY_SECONDS} for name in WARM_STREAMS})
        with self.stack.workers(count, concurrency, env=env) as workers:
            self.release(*warm)
            seen: list[Call] = []

            def are_warm() -> bool:
                seen.extend(self.stack.firehose.calls())
                return len(seen) >= target

            self.stack.wait_for(are_warm, f"the {target} first batches delivered")
            self.stack.firehose.behave({})
            yield workers

    def check_backlog(self, streams: Sequence[Stream]) -> None:
        """Raise `NotMeasured` where nothing is left to send: whatever was measured had an end."""
        if any(self.stack.broker.llen(stream.queue) for stream in streams):
            return
        dead = len(self.services.dead_letters.all())
        raise NotMeasured(
            "the backlog was used up before the time was up; try fewer --seconds"
            f" ({dead:,} of its batches are dead letters)"
        )

    def rate(self, streams: Sequence[Stream], released: float, seconds: float) -> float:
        """Records a second that these streams took for so long from `RAMP_SECONDS` after a release on.

        Raises `NotMeasured` where there was not enough to send.
        """
        end = released + RAMP_SECONDS + seconds
        time.sleep(max(end - time.monotonic(), 0))
        self.check_backlog(streams)
        names = {stream.name for stream in streams}
        calls = [call for call in self.stack.firehose.calls() if call.stream in names]
        return records_between(calls, released + RAMP_SECONDS, end) / seconds


def records_between(calls: Sequence[Call], start: float, end: float) -> int:
    """Records that were accepted from one moment to another."""
    return sum(call.accepted for call in calls if start <= call.moment < end)


def as_many_as_go(seconds: float, records: int) -> int:
    """Batches of so many records that no worker here delivers within so many seconds."""
    fastest = 600 if records < BATCH else 200
    return round((seconds + RAMP_SECONDS + 1) * fastest)
