"""From many messages to batches at once: `audience.forward_run`.

Most messages of `audience.changes` are plain calls with valid changes. A run checks those and fans them out
together, and hands the batches over in the same step that ends the messages. Any other message is run alone,
by the task that it calls: one with invalid changes, with an ETA or of Celery's older protocol, one that is
malformed, and one over which a process was lost.
"""

import logging
from collections import Counter
from collections.abc import Iterator, Sequence
from hashlib import blake2b
from typing import Any, NamedTuple
from uuid import UUID

import orjson
from celery.exceptions import Ignore, Reject, Retry
from redis.exceptions import RedisError

from schemas.changes import Change, check_changes
from schemas.records import EXAMPLE_STAMP, Skip, Stamp
from schemas.sources.mparticle import translate
from tasks.base import INFRASTRUCTURE_ERRORS
from tasks.fan_out import Part, fan_out
from tasks.forward import ProducerTask, content_digest, includes_metadata, sequence_of
from worker.broker.messages import TaskCall, read_call
from worker.broker.redis.bodies import cost_headers
from worker.broker.redis.reservations import Connected, HandOver, Obstacle
from worker.broker.redis.runs import RUN_CONTENT_BYTES, RUN_MESSAGE_BYTES
from worker.celery import app
from worker.consumer.validation import is_valid
from worker.firehose.batching import Batches
from worker.firehose.deliveries import make_delivery
from worker.privacy import HIDDEN
from worker.queues import (
    ENQUEUED_AT_HEADER,
    FORWARD,
    FORWARD_MPARTICLE,
    FORWARD_RUN,
    SEQUENCE_HEADER,
    Stream,
)
from worker.state.registry import Snapshot
from worker.state.run_counts import RunCounts, Skipped

MICROSECONDS = 1_000_000

logger = logging.getLogger(__name__)


class Plain(NamedTuple):
    """A message that a run can forward."""

    tag: str
    """Its delivery tag."""
    digest: bytes
    """Its idempotency key."""
    sequence: int
    changes: list[Change]
    skips: Counter[Skip]

    @property
    def attempt(self) -> str:
        """The idempotency key as the tasks of single messages have it."""
        return str(UUID(bytes=self.digest))


class Summary(NamedTuple):
    """The numbers that Flower shows of a run."""

    messages: int
    changes: int
    records: int
    streams: int


class RunTask(ProducerTask):
    """Forwards the messages of a run."""

    abstract = True
    Request = "worker.consumer.request:RunRequest"

    def forward_run(self, tags: Sequence[str]) -> Summary | None:
        """Forward the messages with these delivery tags; None where the broker has none of them."""
        with self.app.reservations.open() as connected:
            if connected is None:
                return None
            plain, alone, left = self._read(connected, tags)
            summary = self._forward_plain(connected, plain, alone)
            connected.requeue(left)
            connected.requeue(alone, alone=True)
            return summary

    def _run_or_dead_letter(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        match args:
            case [[*tags]] if all(isinstance(tag, str) for tag in tags):
                return self._run_or_part(tags)
        return super()._run_or_dead_letter(args, kwargs)

    def _run_or_part(self, tags: list[str]) -> Any:
        """Run the task; where it fails, have each of its messages run alone, and fail alone."""
        try:
            return self.run(tags)
        except (Retry, Ignore, Reject, *INFRASTRUCTURE_ERRORS):
            raise
        except Exception as error:
            logger.error("%s in a run: its %d messages are run one by one", type(error).__name__, len(tags))
        with self.app.reservations.open() as connected:
            if connected is not None:
                connected.requeue(tags, alone=True)
        return None

    def _read(self, connected: Connected, tags: Sequence[str]) -> tuple[list[Plain], list[str], list[str]]:
        """The messages that this run can forward; the tags of those to run alone; and of those to leave.

        It leaves what is beyond the limit of a run's content.
        """
        plain: list[Plain] = []
        alone: list[str] = []
        room = RUN_CONTENT_BYTES
        for position, (tag, text) in enumerate(zip(tags, connected.read(tags), strict=True)):
            if text is None:
                continue
            found, content_bytes = self._read_plain(tag, text, connected.now)
            if found is None:
                alone.append(tag)
                continue
            room -= content_bytes
            if room < 0:
                return plain, alone, list(tags[position:])
            plain.append(found)
        return plain, alone, []

    def _read_plain(self, tag: str, text: bytes, now: int) -> tuple[Plain | None, int]:
        """A message, where it is a valid call with valid changes alone; and the bytes of its content."""
        try:
            envelope = orjson.loads(text)
        except orjson.JSONDecodeError:
            return None, 0
        found = read_call(envelope, max_bytes=RUN_MESSAGE_BYTES)
        if found is None or not found.is_plain:
            return None, 0
        return self._as_plain(tag, envelope, found.call, now), found.content_bytes

    def _as_plain(self, tag: str, envelope: dict[str, Any], call: TaskCall, now: int) -> Plain | None:
        if call.args or not is_valid(call):
            return None
        sequence = sequence_of(call.fields.get(SEQUENCE_HEADER) or envelope.get("sequence"))
        if sequence is None:
            return None
        # Numbers go on from where they were, where the broker's clock was ahead and was set back.
        checked = self._check(call, min(sequence // MICROSECONDS, now))
        if checked is None:
            return None
        return Plain(tag, content_digest(call.id, call.kwargs), sequence, *checked)

    def _check(self, call: TaskCall, received_at: int) -> tuple[list[Change], Counter[Skip]] | None:
        """The changes of a call, and what it skips; None where not all of it is valid."""
        match call.task, call.kwargs:
            case str(task), {"changes": list(items), **others} if task == FORWARD and not others:
                changes, invalid = check_changes(self.schema, items, lambda: received_at)
                return None if invalid else (changes, Counter())
            case str(task), {"request": request, **others} if task == FORWARD_MPARTICLE and not others:
                changes, invalid, skips = translate(request, self.catalogue)
                return None if invalid else (changes, skips)
        return None

    def _forward_plain(self, connected: Connected, found: list[Plain], alone: list[str]) -> Summary:
        """Fan the messages out, and hand them over. Appends the tags of those to be run alone to `alone`."""
        snapshot = self.snapshot_for({change.audience_id for message in found for change in message.changes})
        attempts = [message.attempt for message in found]
        done = self.app.services.idempotency.completed(attempts)
        first: dict[bytes, Plain] = {}
        repeated: list[Plain] = []
        for message, attempt in zip(found, attempts, strict=True):
            is_corrupt = snapshot.corrupt and not snapshot.corrupt.isdisjoint(
                change.audience_id for change in message.changes
            )
            # Of one that was run alone, the task of single messages knows whether it is to be run again.
            if is_corrupt or attempt in done:
                alone.append(message.tag)
            elif message.digest in first:
                repeated.append(message)
            else:
                first[message.digest] = message
        return self._hand_over(connected, list(first.values()), repeated, snapshot)

    def _hand_over(
        self, connected: Connected, messages: list[Plain], repeated: list[Plain], snapshot: Snapshot
    ) -> Summary:
        """Hand the messages over; those that turn out to be gone or repeated are left out of the next try."""
        run_id, recorder = self.request.id, self.app.services.run_recorder
        counted = recorder.counted([message.digest for message in messages])
        while True:
            streams, skipped = self._fan_out(messages, repeated, snapshot)
            fresh = [message for message in messages if message.digest not in counted]
            if len(fresh) == len(messages):
                counts = self._counts(fresh, streams, skipped)
            else:
                counts = self._counts(fresh, *self._fan_out(fresh, repeated, snapshot))
            obstacles = connected.hand_over(
                HandOver(
                    run_id=run_id,
                    completed={message.tag: message.digest for message in messages},
                    repeated=[message.tag for message in repeated],
                    messages=self._delivery_messages(connected, streams, run_id),
                    counts=counts.as_json(self.app.services.clock()),
                )
            )
            if not obstacles:
                break
            repeated += [m for m in messages if obstacles.get(m.tag) is Obstacle.COMPLETED]
            messages = [message for message in messages if message.tag not in obstacles]
        if again := len(messages) - len(fresh):
            logger.warning("%d messages were run again: the broker had lost what was made of them", again)
        self._count(connected, run_id, counts)
        return Summary(
            messages=len(messages),
            changes=sum(len(message.changes) for message in messages),
            records=sum(batches.records for batches in streams.values()),
            streams=len(streams),
        )

    def _counts(
        self, messages: list[Plain], streams: dict[Stream, Batches], skipped: Counter[Skipped]
    ) -> RunCounts:
        """The counts of the messages of which these batches were made."""
        enqueued = {stream: batches.records for stream, batches in streams.items()}
        keys = (message.digest for message in messages)
        return self.app.services.run_recorder.counts_of(enqueued, skipped, keys)

    def _fan_out(
        self, messages: list[Plain], repeated: list[Plain], snapshot: Snapshot
    ) -> tuple[dict[Stream, Batches], Counter[Skipped]]:
        streams, skipped = fan_out(
            list(self._parts(messages, snapshot)), snapshot, self.catalogue.names_by_precedence
        )
        if any(batches.oversize.records for batches in streams.values()):
            # The limit of a message's content excludes it. As a defect it has each message run alone.
            raise ValueError("a record of a run is too large")
        for message in messages:
            skipped.update({Skipped(None, None, skip): count for skip, count in message.skips.items()})
        if changes := sum(len(message.changes) for message in repeated):
            skipped[Skipped(None, None, Skip.REPEATED)] += changes
        return streams, skipped

    def _parts(self, messages: list[Plain], snapshot: Snapshot) -> Iterator[Part]:
        audiences = {change.audience_id for message in messages for change in message.changes}
        is_stamped = includes_metadata(audiences, snapshot)
        for message in messages:
            stamp = Stamp(message.attempt, message.sequence) if is_stamped else EXAMPLE_STAMP
            yield Part(message.changes, stamp)

    def _delivery_messages(
        self, connected: Connected, streams: dict[Stream, Batches], run_id: str
    ) -> list[tuple[str, str]]:
        """The delivery messages of the streams' batches, each with the list that it is for."""
        enqueued_at = {ENQUEUED_AT_HEADER: round(self.app.services.clock(), 3)}
        with connected.collecting() as messages:
            for stream, batches in streams.items():
                for number, chain in enumerate(batches):
                    digest = blake2b(f"{run_id}:{stream.queue}:{number}".encode(), digest_size=16)
                    self.app.send_task(
                        stream.task,
                        kwargs=make_delivery(stream, chain),
                        queue=stream.queue,
                        task_id=str(UUID(bytes=digest.digest())),
                        headers=enqueued_at | cost_headers(chain[0].firehose_records, chain[0].bytes),
                        argsrepr=HIDDEN,
                        kwargsrepr=HIDDEN,
                        producer=connected.producer,
                    )
        return messages

    def _count(self, connected: Connected, run_id: str, counts: RunCounts) -> None:
        """Record the run's counters. If that fails, a worker does it later: the broker keeps them."""
        try:
            self.app.services.run_recorder.record(run_id, counts)
            connected.forget_counted(run_id)
        except RedisError as error:
            logger.warning("%s: the counters of a run are recorded later", type(error).__name__)


@app.task(name=FORWARD_RUN, base=RunTask, bind=True)
def forward_run(self: RunTask, tags: list[str]) -> dict[str, int] | None:
    """Forward the messages that a worker has reserved under these delivery tags."""
    summary = self.forward_run(tags)
    return summary._asdict() if summary else None
