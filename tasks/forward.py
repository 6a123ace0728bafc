"""From changes to batches: `audience.forward` and `audience.forward_mparticle`.

Every ID that is made here derives from the message and its content, so that a message
which comes back, because its worker died halfway, makes the same batches and dead letters.
"""

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Set
from functools import cache, cached_property
from hashlib import blake2b
from typing import Any, NoReturn
from uuid import NAMESPACE_OID, UUID, uuid5

from celery.exceptions import Reject

from schemas.changes import Change, ChangeSchema, Invalid, check_changes
from schemas.identities import Catalogue
from schemas.many_changes import encode_changes, encode_many_changes
from schemas.records import EXAMPLE_STAMP, Skip, Stamp
from schemas.sources.mparticle import translate
from tasks.base import ForwarderTask
from tasks.fan_out import Part, fan_out
from worker.broker.redis.bodies import cost_headers
from worker.broker.serialization import dumps_bytes
from worker.celery import app
from worker.errors import WorkerTroubleError
from worker.failures.alert_types import AlertType, Failure
from worker.failures.dead_lettering import Undeliverable
from worker.failures.dead_letters import Message
from worker.failures.worker_trouble import report_worker_trouble
from worker.firehose.batching import MAX_RECORD_BYTES, Batch, Chain
from worker.firehose.deliveries import make_delivery
from worker.firehose.groups import firehose_records
from worker.privacy import HIDDEN
from worker.queues import (
    CHANGES_QUEUE,
    ENQUEUED_AT_HEADER,
    FORWARD,
    FORWARD_MPARTICLE,
    SEQUENCE_HEADER,
    Stream,
)
from worker.retry_policy import REQUEUE_PAUSE_SECONDS
from worker.state.installation import STATE_MISSING
from worker.state.registry import Snapshot
from worker.state.run_counts import RunCounts, Skipped

SHOWN_PROBLEMS = 5
"""Invalid changes of which an alert says what is wrong; its dead letter holds them all."""
MAX_AUDIENCE_ID = 2**63
SHOWN_RANGES = 100
"""Runs of invalid positions that an alert names."""

STAMPED = re.compile(r"[0-9]{1,16}")


class ProducerTask(ForwarderTask):
    """Checks changes, renders their records, and enqueues batches for the streams."""

    abstract = True

    @property
    def catalogue(self) -> Catalogue:
        return self.app.services.settings.catalogue

    @cached_property
    def schema(self) -> ChangeSchema:
        return ChangeSchema(self.catalogue)

    def undeliverable(self, error: Exception, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Undeliverable:
        problem = "not a call that this task takes, or a defect in audience-firehose"
        return Undeliverable(
            id=self._derived_id("call"),
            message=Message(
                self.name, self.queue_consumed or CHANGES_QUEUE, kwargs, list(args), self._sequence_to_keep()
            ),
            failure=Failure(AlertType.INVALID_CHANGE, type(error).__name__, problem),
            records=1,
        )

    def idempotency_key(self, message_id: str, kwargs: dict[str, Any]) -> str:
        """Derived from the content too: callers choose IDs, and may choose one twice."""
        return str(UUID(bytes=content_digest(message_id, kwargs)))

    def record_arrival(self) -> int:
        """Record when this message was received (Unix seconds); the same when it comes back."""
        return self.app.services.idempotency.record_arrival(self.attempt, int(self.app.services.clock()))

    def forward(self, changes: list[Change], skips: Counter[Skip]) -> None:
        """Send each change to the streams of its audience's connections."""
        snapshot = self.snapshot_for({change.audience_id for change in changes})
        if snapshot.corrupt:
            self._dead_letter_for_corrupt_connections(changes, snapshot)
        part = Part(changes, self._stamp(changes, snapshot))
        streams, skipped = fan_out([part], snapshot, self.catalogue.names_by_precedence)
        for stream, (batches, connection_ids) in streams.items():
            if batches.oversize.records:
                self._dead_letter_oversize(stream, batches.oversize, connection_ids)
            for number, chain in enumerate(batches):
                self._enqueue(stream, number, chain, connection_ids)
        if streams:
            self.hand_over()
        skipped.update({Skipped(None, None, skip): count for skip, count in skips.items()})
        self._record(RunCounts({stream: found.batches.records for stream, found in streams.items()}, skipped))

    def snapshot_for(self, audience_ids: Set[int]) -> Snapshot:
        """The registry as changes of these audiences must see it."""
        snapshot = self.app.services.registry.snapshot()
        if audience_ids - snapshot.routes.keys():
            # A connection made within the last second must receive the change, too.
            latest = self.app.installation.latest_of(self.app.services.registry)
            if latest is None:
                self._leave_to_other_workers()
            return latest
        return snapshot

    def _leave_to_other_workers(self) -> NoReturn:
        """Requeue the message: that its audiences have no connections here says nothing of them."""
        report_worker_trouble(self.app.services.alerts, self.request.hostname, STATE_MISSING)
        self.app.services.sleep(REQUEUE_PAUSE_SECONDS)
        self._release()
        raise Reject(WorkerTroubleError(STATE_MISSING), requeue=True)

    def dead_letter_invalid(self, invalid: list[Invalid], total: int, kwargs: dict[str, Any]) -> None:
        """Keep invalid items, as a call of this task with nothing but them, and raise one alert."""
        failure = Failure(AlertType.INVALID_CHANGE, "ValidationError", _describe(invalid, total))
        undeliverable = Undeliverable(
            id=self._derived_id("invalid"),
            message=Message(self.name, CHANGES_QUEUE, kwargs, sequence=self._sequence_to_keep()),
            failure=failure,
            records=len(invalid),
            audience_ids=_audiences(invalid),
        )
        self.dead_letter(undeliverable)

    def _stamp(self, changes: list[Change], snapshot: Snapshot) -> Stamp:
        """The message's stamp. Its number is drawn only if a connection of the changes includes metadata."""
        if not includes_metadata({change.audience_id for change in changes}, snapshot):
            return EXAMPLE_STAMP
        number = self.sequence or self.app.services.idempotency.stamp(self.attempt)
        return Stamp(self.attempt, number)

    @property
    def sequence(self) -> int | None:
        """The number that the broker or an earlier attempt stamped the message with; None where none did."""
        return sequence_of(self.request.get(SEQUENCE_HEADER))

    def _sequence_to_keep(self) -> str | None:
        """The message's number for its dead letter, so that a replay keeps its place in the order."""
        return str(self.sequence) if self.sequence else None

    def _dead_letter_for_corrupt_connections(self, changes: list[Change], snapshot: Snapshot) -> None:
        """Keep the changes whose receivers are not known, because a connection is corrupt, for a repair."""
        unknown = [change for change in changes if change.audience_id in snapshot.corrupt]
        if unknown:
            advice = (
                "a connection of this audience cannot be read; store it again with `connect`, then replay"
            )
            undeliverable = Undeliverable(
                id=self._derived_id("unreadable"),
                message=Message(
                    FORWARD,
                    CHANGES_QUEUE,
                    {"changes": [change.as_item() for change in unknown]},
                    sequence=self._sequence_to_keep(),
                ),
                failure=Failure(AlertType.INVALID_REQUEST, "UnreadableConnection", advice),
                records=len(unknown),
                audience_ids={change.audience_id for change in unknown},
            )
            self.dead_letter(undeliverable)

    def count_repeated(self, changes: int) -> None:
        """Count a message's changes as repeated: it was done with before."""
        self.app.services.counters.skipped({(None, Skip.REPEATED): changes})

    def _record(self, counts: RunCounts) -> None:
        """Record the message's counters, together with its idempotency record."""
        services = self.app.services
        self.record_counters(lambda pipe: counts.record(pipe, services.counters, services.skipped_audiences))

    def _dead_letter_oversize(self, stream: Stream, batch: Batch, connection_ids: Mapping[int, str]) -> None:
        failure = Failure(
            AlertType.RECORD_TOO_LARGE,
            "RecordTooLarge",
            f"over Firehose's limit of {MAX_RECORD_BYTES} bytes a record, so it can never be delivered",
        )
        kwargs = make_delivery(stream, [batch], connection_ids)
        undeliverable = Undeliverable(
            id=self._derived_id(f"oversize:{stream.queue}"),
            message=Message(stream.task, stream.queue, kwargs),
            failure=failure,
            records=batch.records,
            stream=stream,
            connection_ids=kwargs["connection_ids"],
            audience_ids=batch.audience_ids,
        )
        self.dead_letter(undeliverable)

    def acquire(self) -> bool:
        if not super().acquire():
            return False
        with self.app.reservations.open() as connected:
            if connected is None or connected.keep_from_runs(UUID(self.attempt).bytes):
                return True
        # A run has completed it.
        self._release()
        return False

    def _enqueue(self, stream: Stream, number: int, chain: Chain, connection_ids: Mapping[int, str]) -> None:
        digest = blake2b(f"{self.attempt}:{stream.queue}:{number}".encode(), digest_size=16)
        for batch in chain:
            for record in firehose_records(batch.groups):
                digest.update(record.encode())
        self.app.send_task(
            stream.task,
            kwargs=make_delivery(stream, chain, connection_ids),
            queue=stream.queue,
            task_id=str(UUID(bytes=digest.digest())),
            headers={ENQUEUED_AT_HEADER: round(self.app.services.clock(), 3)}
            | cost_headers(chain[0].firehose_records, chain[0].bytes),
            argsrepr=HIDDEN,
            kwargsrepr=HIDDEN,
        )

    def _derived_id(self, what: str) -> str:
        return str(uuid5(NAMESPACE_OID, f"{self.attempt}:{what}"))


def content_digest(message_id: str, kwargs: dict[str, Any]) -> bytes:
    """Tells messages apart by ID and content: callers choose IDs, and may choose one twice. 16 bytes."""
    return _digest(message_id, encode_many_changes(kwargs) or dumps_bytes(kwargs))


def changes_digest(message_id: str, changes: list[Change]) -> bytes:
    """`content_digest` of a call of `audience.forward` with many changes."""
    return _digest(message_id, encode_changes(changes))


def _digest(message_id: str, content: bytes) -> bytes:
    return blake2b(b"%b:%b" % (message_id.encode(), content), digest_size=16).digest()


def sequence_of(text: Any) -> int | None:
    """The sequence number that a message was stamped with; None where this is none."""
    return int(text) if isinstance(text, str) and STAMPED.fullmatch(text) else None


def includes_metadata(audience_ids: Iterable[int], snapshot: Snapshot) -> bool:
    """Whether a connection of these audiences includes metadata in its records."""
    return any(
        route.projection.include_metadata
        for audience_id in audience_ids
        for route in snapshot.routes.get(audience_id, ())
    )


def _audiences(invalid: list[Invalid]) -> set[int]:
    """The audiences of invalid changes, where they can be read."""
    found = (item.item.get("audience_id") for item in invalid if isinstance(item.item, dict))
    return {audience for audience in found if type(audience) is int and 0 <= audience < MAX_AUDIENCE_ID}


def _describe(invalid: list[Invalid], total: int) -> str:
    """Say how many are invalid, at which positions, and the problems of the first ones."""
    positions = _ranges([found.position for found in invalid])
    where = ", ".join(positions[:SHOWN_RANGES]) + (" …" if len(positions) > SHOWN_RANGES else "")
    details = [
        f"position {found.position}: {'; '.join(found.problems)}" for found in invalid[:SHOWN_PROBLEMS]
    ]
    return f"{len(invalid)} of {total} invalid, at {where}: {' | '.join(details)}"


def _ranges(positions: list[int]) -> list[str]:
    """`0-7`, `9`: runs of positions, which come in ascending order."""
    runs: list[list[int]] = []
    for position in positions:
        if runs and position <= runs[-1][1] + 1:
            runs[-1][1] = position
        else:
            runs.append([position, position])
    return [str(first) if first == last else f"{first}-{last}" for first, last in runs]


def _size(request: Any) -> int:
    """How many profiles an mParticle request holds; one for a request without profiles."""
    profiles = request.get("user_profiles") if isinstance(request, dict) else None
    return len(profiles) if isinstance(profiles, list) else 1


@app.task(name=FORWARD, base=ProducerTask, bind=True)
def forward(self: ProducerTask, changes: list[Any]) -> None:
    """Forward changes of audience memberships. The contract's section 3 says how a change looks."""
    if not isinstance(changes, list):
        raise TypeError("changes must be a list")
    if not self.acquire():
        self.count_repeated(len(changes))
        return
    valid, invalid = check_changes(self.schema, changes, cache(self.record_arrival))
    if invalid:
        self.dead_letter_invalid(invalid, len(changes), {"changes": [change.item for change in invalid]})
    self.forward(valid, Counter())


@app.task(name=FORWARD_MPARTICLE, base=ProducerTask, bind=True)
def forward_mparticle(self: ProducerTask, request: Any) -> None:
    """Forward the `add` and `delete` actions of an mParticle AudienceMembershipChangeRequest."""
    if not self.acquire():
        self.count_repeated(_size(request))
        return
    changes, invalid, skipped = translate(request, self.catalogue)
    if invalid:
        alone = request
        if isinstance(request, dict) and isinstance(request.get("user_profiles"), list):
            alone = {**request, "user_profiles": [profile.item for profile in invalid]}
        total = _size(request)
        self.dead_letter_invalid(invalid, total, {"request": alone})
    self.forward(changes, skipped)
