"""From many messages to batches at once: `audience.forward_run`.

Most messages of `audience.changes` are plain calls with valid changes. A run checks those and fans them out
together, and hands the batches over in the same step that ends the messages. Any other message is run alone,
by the task that it calls: one with invalid changes, with an ETA or of Celery's older protocol, one that is
malformed, and one over which a process was lost.
"""

import logging
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set
from functools import partial
from hashlib import blake2b
from itertools import chain
from typing import Any, NamedTuple
from uuid import UUID

from celery.exceptions import Ignore, Reject, Retry

from schemas.changes import NO_TIMESTAMP, Change, as_changes, check_changes, fill_timestamps
from schemas.many_changes import MANY_CHANGES, decode_many_changes
from schemas.memberships import Memberships
from schemas.records import EXAMPLE_STAMP, Skip, Stamp
from schemas.sources.mparticle import translate
from tasks.base import INFRASTRUCTURE_ERRORS
from tasks.fan_out import Part, audiences_of, fan_out
from tasks.forward import ProducerTask, changes_digest, content_digest, includes_metadata, sequence_of
from tasks.routing import Streams
from worker.broker.calls import Call, send_call
from worker.broker.messages import EncodedCall, TaskCall
from worker.broker.redis.bodies import cost_headers
from worker.broker.runs import RUN_CONTENT_BYTES, HandOver, Obstacle, Reservation
from worker.celery import app
from worker.consumer.validation import is_valid
from worker.firehose.deliveries import make_delivery
from worker.queues import (
    ENQUEUED_AT_HEADER,
    FORWARD,
    FORWARD_MPARTICLE,
    FORWARD_RUN,
    SEQUENCE_HEADER,
)
from worker.state.idempotency import IdempotencyRecords
from worker.state.registry import Snapshot
from worker.state.run_counts import RunCounts, Skipped

MICROSECONDS = 1_000_000
RUN_RECORDS = 100_000
"""That a run makes at most, for all streams together, unless one message makes more: all are in memory."""
MPARTICLE_RUN_BYTES = 64 * 1024
"""Bytes of a request in a run at most: each of a user's devices makes a record of all their identities."""

Checked = tuple[Sequence[Change] | Memberships, Mapping[Skip, int]]
"""The changes of a message, and what it skips."""
NO_SKIPS: Mapping[Skip, int] = {}

logger = logging.getLogger(__name__)


class Read(NamedTuple):
    """A message that a run has read, and may forward if its changes are valid."""

    tag: str
    """Its delivery tag."""
    digest: bytes
    """Its idempotency key."""
    sequence: int | None
    """Its sequence number; None where the broker has stamped it with none."""
    content: list[Change] | Memberships | None
    """The changes, not checked yet; or, checked, as columns. None where the call is to be checked."""
    call: TaskCall | None = None


class Plain(NamedTuple):
    """A message that a run can forward."""

    tag: str
    digest: bytes
    number: Callable[[], int]
    """Its sequence number."""
    content: Sequence[Change] | Memberships
    """Its changes."""
    skips: Mapping[Skip, int]

    @property
    def attempt(self) -> str:
        """The idempotency key as the tasks of single messages have it."""
        return _attempt(self.digest)


class SequenceNumbers:
    """The sequence numbers of a run's messages. Those that are not stamped draw theirs together."""

    def __init__(self, idempotency: IdempotencyRecords, messages: Sequence[Read]) -> None:
        self._idempotency = idempotency
        self._numbers = {message.tag: message.sequence for message in messages}
        self._unstamped = [message for message in messages if message.sequence is None]

    def of(self, tag: str) -> int:
        """The number of a message, by delivery tag; the same when it comes back. Raises `RedisError`."""
        number = self._numbers[tag]
        return self._draw()[tag] if number is None else number

    def _draw(self) -> dict[str, int]:
        attempts = [_attempt(message.digest) for message in self._unstamped]
        numbers = self._idempotency.stamp_all(attempts)
        drawn = dict(zip((message.tag for message in self._unstamped), numbers, strict=True))
        self._numbers |= drawn
        return drawn


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

    def forward_run(self, tags: Sequence[str]) -> dict[str, int] | None:
        """Forward the messages with these delivery tags; None where the broker knows no runs."""
        with self.app.reservations.open(self.request.properties) as reservation:
            if reservation is None:
                return None
            messages, alone, left = self._read(reservation, tags)
            plain, invalid = self._check_all(messages, reservation.now)
            alone += invalid
            snapshot = self.snapshot_for(_audiences(plain))
            now, later = _bounded(plain, snapshot)
            left = [*(message.tag for message in later), *left]
            summary = self._forward_plain(reservation, now, alone, snapshot)
            return reservation.end(summary._asdict(), left=left, alone=alone)

    def run_or_dead_letter(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        match args:
            case [[*tags]] if all(isinstance(tag, str) for tag in tags):
                return self._run_or_part(tags)
        return super().run_or_dead_letter(args, kwargs)

    def _run_or_part(self, tags: list[str]) -> Any:
        """Run the task; where it fails, have each of its messages run alone, and fail alone."""
        try:
            return self.run(tags)
        except (Retry, Ignore, Reject, *INFRASTRUCTURE_ERRORS):
            raise
        except Exception as error:
            logger.error("%s in a run: its %d messages are run one by one", type(error).__name__, len(tags))
        with self.app.reservations.open(self.request.properties) as reservation:
            return reservation and reservation.end(None, alone=tags)

    def _read(self, reservation: Reservation, tags: Sequence[str]) -> tuple[list[Read], list[str], list[str]]:
        """The messages that this run may forward; the tags of those to run alone; and of those to leave.

        It leaves what is beyond the limit of a run's content.
        """
        messages: list[Read] = []
        alone: list[str] = []
        room = RUN_CONTENT_BYTES
        for tag, found, sequence in reservation.read(tags):
            if found is None or not found.is_plain or not is_valid(found.fields):
                alone.append(tag)
                continue
            room -= len(found.content)
            if room < 0:
                return messages, alone, list(tags[tags.index(tag) :])
            message = self._read_one(tag, found, sequence_of(found.fields.get(SEQUENCE_HEADER) or sequence))
            if message is None:
                alone.append(tag)
            else:
                messages.append(message)
        return messages, alone, []

    def _read_one(self, tag: str, found: EncodedCall, sequence: int | None) -> Read | None:
        """The content of a message; None where it is to be run alone."""
        if found.fields["task"] == FORWARD and (many := decode_many_changes(found.content)):
            return Read(tag, changes_digest(found.fields["id"], many), sequence, self._condensed(many))
        if found.fields["task"] == FORWARD_MPARTICLE and len(found.content) > MPARTICLE_RUN_BYTES:
            return None
        call = found.decode()
        if call is None or call.args:
            return None
        digest = content_digest(call.id, call.kwargs)
        changes = as_changes(call.kwargs) if call.task == FORWARD else None
        if changes is None:
            return Read(tag, digest, sequence, None, call)
        return Read(tag, digest, sequence, self._condensed(changes))

    def _condensed(self, changes: list[Change]) -> list[Change] | Memberships:
        """Many changes as columns, if they are valid memberships; others as they are."""
        if len(changes) < MANY_CHANGES or any(change.timestamp == NO_TIMESTAMP for change in changes):
            return changes
        memberships = Memberships.of(changes, self.catalogue.names_by_precedence)
        return (
            memberships
            if memberships and self.schema.are_valid(changes, memberships.distinct_events)
            else changes
        )

    def _check_all(self, messages: Sequence[Read], now: int) -> tuple[list[Plain], list[str]]:
        """The messages that this run can forward, and the tags of those with invalid changes."""
        sequence_numbers = SequenceNumbers(self.app.services.idempotency, messages)
        numbers = [partial(sequence_numbers.of, message.tag) for message in messages]

        def received_at(position: int) -> int:
            # Numbers go on from where they were, where their server's clock was ahead and was set back.
            return min(numbers[position]() // MICROSECONDS, now)

        decoded = [message.content for message in messages if isinstance(message.content, list)]
        are_valid = self.schema.are_valid(list(chain.from_iterable(decoded)))
        plain: list[Plain] = []
        invalid: list[str] = []
        for position, message in enumerate(messages):
            receive = partial(received_at, position)
            checked: Checked | None = None
            if message.content is None:
                checked = message.call and self._check(message.call, receive)
            elif isinstance(message.content, Memberships):
                checked = message.content, NO_SKIPS
            elif are_valid or self.schema.are_valid(message.content):
                checked = fill_timestamps(message.content, receive), NO_SKIPS
            if checked is None:
                invalid.append(message.tag)
            else:
                plain.append(Plain(message.tag, message.digest, numbers[position], *checked))
        return plain, invalid

    def _check(self, call: TaskCall, received_at: Callable[[], int]) -> Checked | None:
        """The checked changes of a call; None where not all of it is valid."""
        items = call.kwargs.get("changes") if len(call.kwargs) == 1 else None
        if call.task == FORWARD and type(items) is list:
            changes, invalid = check_changes(self.schema, items, received_at)
            return None if invalid else (changes, NO_SKIPS)
        if call.task == FORWARD_MPARTICLE and call.kwargs.keys() == {"request"}:
            changes, invalid, skips = translate(call.kwargs["request"], self.catalogue)
            return None if invalid else (changes, skips)
        return None

    def _forward_plain(
        self, reservation: Reservation, found: list[Plain], alone: list[str], snapshot: Snapshot
    ) -> Summary:
        """Fan the messages out, and hand them over. Appends the tags of those to be run alone to `alone`."""
        attempts = [message.attempt for message in found]
        done = self.app.services.idempotency.completed(attempts)
        first: dict[bytes, Plain] = {}
        repeated: list[Plain] = []
        for message, attempt in zip(found, attempts, strict=True):
            is_corrupt = snapshot.corrupt and not snapshot.corrupt.isdisjoint(audiences_of(message.content))
            # Of one that was run alone, the task of single messages knows whether it is to be run again.
            if is_corrupt or attempt in done:
                alone.append(message.tag)
            elif message.digest in first:
                repeated.append(message)
            else:
                first[message.digest] = message
        return self._hand_over(reservation, list(first.values()), repeated, alone, snapshot)

    def _hand_over(
        self,
        reservation: Reservation,
        messages: list[Plain],
        repeated: list[Plain],
        alone: list[str],
        snapshot: Snapshot,
    ) -> Summary:
        """Hand the messages over; those that cannot be completed are left out of the next try."""
        run_id, recorder = self.request.id, self.app.services.run_recorder
        counted = recorder.counted([message.digest for message in messages])
        while True:
            streams, skipped = self._fan_out(messages, repeated, snapshot)
            fresh = [message for message in messages if message.digest not in counted]
            if len(fresh) == len(messages):
                counts = self._counts(fresh, streams, skipped)
            else:
                counts = self._counts(fresh, *self._fan_out(fresh, repeated, snapshot))
            obstacles = reservation.hand_over(
                HandOver(
                    run_id=run_id,
                    completed={message.tag: message.digest for message in messages},
                    repeated=[message.tag for message in repeated],
                    messages=self._delivery_messages(reservation, streams, run_id),
                    counts=counts.as_json(self.app.services.clock()),
                )
            )
            if not obstacles:
                break
            repeated += [m for m in messages if obstacles.get(m.tag) is Obstacle.COMPLETED]
            alone += [m.tag for m in messages if obstacles.get(m.tag) is Obstacle.RUN_ALONE]
            messages = [message for message in messages if message.tag not in obstacles]
        if again := len(messages) - len(fresh):
            logger.warning("%d messages were run again: the broker had lost what was made of them", again)
        reservation.count(run_id, partial(recorder.record, run_id, counts))
        return Summary(
            messages=len(messages),
            changes=sum(len(message.content) for message in messages),
            records=sum(found.batches.records for found in streams.values()),
            streams=len(streams),
        )

    def _counts(self, messages: list[Plain], streams: Streams, skipped: Counter[Skipped]) -> RunCounts:
        """The counts of the messages of which these batches were made."""
        enqueued = {stream: found.batches.records for stream, found in streams.items()}
        keys = (message.digest for message in messages)
        return self.app.services.run_recorder.counts_of(enqueued, skipped, keys)

    def _fan_out(
        self, messages: list[Plain], repeated: list[Plain], snapshot: Snapshot
    ) -> tuple[Streams, Counter[Skipped]]:
        streams, skipped = fan_out(
            list(self._parts(messages, snapshot)), snapshot, self.catalogue.names_by_precedence
        )
        if any(found.batches.oversize.records for found in streams.values()):
            # The limit of a message's content excludes it. As a defect it has each message run alone.
            raise ValueError("a record of a run is too large")
        for message in messages:
            for skip, count in message.skips.items():
                skipped[Skipped(None, None, skip)] += count
        if changes := sum(len(message.content) for message in repeated):
            skipped[Skipped(None, None, Skip.REPEATED)] += changes
        return streams, skipped

    def _parts(self, messages: list[Plain], snapshot: Snapshot) -> Iterator[Part]:
        is_stamped = includes_metadata(_audiences(messages), snapshot)
        for message in messages:
            stamp = Stamp(message.attempt, message.number()) if is_stamped else EXAMPLE_STAMP
            yield Part(message.content, stamp)

    def _delivery_messages(
        self, reservation: Reservation, streams: Streams, run_id: str
    ) -> list[tuple[str, str]]:
        """The delivery messages of the streams' batches, each with the list or queue that it is for."""
        enqueued_at = {ENQUEUED_AT_HEADER: round(self.app.services.clock(), 3)}
        with reservation.collecting() as messages:
            for stream, (batches, connection_ids) in streams.items():
                for number, chain in enumerate(batches):
                    digest = blake2b(f"{run_id}:{stream.queue}:{number}".encode(), digest_size=16)
                    send_call(
                        self.app,
                        reservation.producer,
                        Call(
                            id=str(UUID(bytes=digest.digest())),
                            task=stream.task,
                            kwargs=make_delivery(stream, chain, connection_ids) | {"records": chain[0].json},
                            queue=stream.queue,
                            headers=enqueued_at | cost_headers(chain[0].firehose_records, chain[0].bytes),
                        ),
                        root_id=self.request.root_id or run_id,
                        parent_id=run_id,
                    )
        return messages


def _audiences(messages: Sequence[Plain]) -> Set[int]:
    """The audiences of all changes of messages."""
    return set().union(*(audiences_of(message.content) for message in messages))


def _bounded(messages: list[Plain], snapshot: Snapshot) -> tuple[list[Plain], list[Plain]]:
    """The messages whose records a run may make, one at least; and those behind them."""
    changes = sum(len(message.content) for message in messages)
    if changes * _most_routes(_audiences(messages), snapshot) <= RUN_RECORDS:
        return messages, []
    room = RUN_RECORDS
    for position, message in enumerate(messages):
        room -= len(message.content) * _most_routes(audiences_of(message.content), snapshot)
        if room < 0 and position:
            return messages[:position], messages[position:]
    return messages, []


def _most_routes(audiences: Iterable[int], snapshot: Snapshot) -> int:
    """How many streams the changes of one of these audiences go to, at most."""
    return max((len(snapshot.routes.get(audience, ())) for audience in audiences), default=0)


def _attempt(digest: bytes) -> str:
    """`str(UUID(bytes=digest))`, at a quarter of its cost."""
    text = digest.hex()
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"


@app.task(name=FORWARD_RUN, base=RunTask, bind=True)
def forward_run(self: RunTask, tags: list[str]) -> dict[str, int] | None:
    """Forward the messages that a worker has reserved under these delivery tags."""
    if not isinstance(tags, list):
        raise TypeError("tags must be a list")
    return self.forward_run(tags)
