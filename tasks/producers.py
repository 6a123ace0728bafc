"""From changes to batches: `audience.forward` and `audience.forward_mparticle`.

Every ID that is made here derives from the message and its content, so that a message
which comes back, because its worker died halfway, makes the same batches and letters.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable
from functools import cache
from hashlib import blake2b
from typing import Any
from uuid import NAMESPACE_OID, UUID, uuid5

from schemas.changes import Change, ChangeSchema, Invalid, check_changes
from schemas.mparticle import translate
from schemas.records import Rendered, Skip, View, render
from tasks.base import ForwarderTask
from worker.burial import Case, bury
from worker.celery import app
from worker.environment import environment
from worker.failures import AlertType, Failure
from worker.firehose.batching import MAX_RECORD_BYTES, Batch, Batches
from worker.queues import CHANGES_QUEUE, Stream
from worker.requests import HIDDEN
from worker.state.dead_letters import Message
from worker.state.registry import Snapshot

SHOWN_PROBLEMS = 5
"""Invalid changes that an alert spells out; its dead letter holds them all."""

CATALOGUE = environment().catalogue
SCHEMA = ChangeSchema(CATALOGUE)


class ProducerTask(ForwarderTask):
    """Checks what came in, renders it, and enqueues batches for the streams."""

    abstract = True

    def case(self, error: Exception, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Case:
        problem = "not a call that this task takes, or a defect in audience-firehose; nothing of it was sent"
        return Case(
            id=self._derived_id("call"),
            message=Message(self.name, self.queue_consumed or CHANGES_QUEUE, kwargs, list(args)),
            failure=Failure(AlertType.INVALID_CHANGE, type(error).__name__, problem),
            records=1,
        )

    def received_at(self) -> int:
        """When this message was received, in Unix seconds; the same when it comes back."""
        return self.app.state.receipts.received_at(self.request.id, int(self.app.state.clock()))

    def forward(self, changes: list[Change], skips: Counter[Skip]) -> None:
        """Send each change to the streams of its audience's connections."""
        if self.app.state.receipts.issued(self.request.id, self.request.retries):
            return
        snapshot = self.app.state.registry.snapshot()
        if any(change.audience_id not in snapshot.routes for change in changes):
            # Nobody must miss a change for having been connected within the last second.
            snapshot = self.app.state.registry.latest()
        if snapshot.unreadable:
            changes = self._without_unreadable(changes, snapshot)
        streams, skipped = fan_out(changes, snapshot)
        for stream, batches in streams.items():
            if batches.oversize.records:
                self._bury_oversize(stream, batches.oversize)
            for number, batch in enumerate(batches):
                self._enqueue(stream, number, batch)
        skipped.update({(None, skip): count for skip, count in skips.items()})
        self._enter({stream: batches.records for stream, batches in streams.items()}, skipped)

    def bury_invalid(self, invalid: list[Invalid], total: int, kwargs: dict[str, Any]) -> None:
        """Keep invalid items, as a call of this task with nothing but them, and raise one alert."""
        shown = [f"position {i.position}: {'; '.join(i.problems)}" for i in invalid[:SHOWN_PROBLEMS]]
        rest = len(invalid) - len(shown)
        failure = Failure(
            AlertType.INVALID_CHANGE,
            "ValidationError",
            f"{len(invalid)} of {total} invalid: {' | '.join(shown)}{f' | and {rest} more' if rest else ''}",
        )
        case = Case(
            id=self._derived_id("invalid"),
            message=Message(self.name, CHANGES_QUEUE, kwargs),
            failure=failure,
            records=len(invalid),
        )
        bury(self.app.state, case)

    def _without_unreadable(self, changes: list[Change], snapshot: Snapshot) -> list[Change]:
        """The changes whose receivers are known. The others wait as a dead letter for a repair."""
        unknown = [change for change in changes if change.audience_id in snapshot.unreadable]
        if unknown:
            advice = (
                "a connection of this audience cannot be read; store it again with `connect`, then replay"
            )
            case = Case(
                id=self._derived_id("unreadable"),
                message=Message(
                    forward.name, CHANGES_QUEUE, {"changes": [change.as_item() for change in unknown]}
                ),
                failure=Failure(AlertType.INVALID_REQUEST, "UnreadableConnection", advice),
                records=len(unknown),
                audience_ids={change.audience_id for change in unknown},
            )
            bury(self.app.state, case)
        return [change for change in changes if change.audience_id not in snapshot.unreadable]

    def _enter(self, accepted: dict[Stream, int], skipped: Counter[tuple[Stream | None, Skip]]) -> None:
        """Enter what the message came to into the books, with its receipt."""
        state = self.app.state
        with self.bookkeeping(), state.redis.pipeline() as pipe:
            state.receipts.issue(self.request.id, self.request.retries, pipe)
            for stream, records in accepted.items():
                state.counters.accepted(stream, records, pipe)
            state.counters.skipped(skipped, pipe)
            pipe.execute()

    def _bury_oversize(self, stream: Stream, batch: Batch) -> None:
        failure = Failure(
            AlertType.RECORD_TOO_LARGE,
            "RecordTooLarge",
            f"over Firehose's limit of {MAX_RECORD_BYTES} bytes a record, so it can never be delivered",
        )
        case = Case(
            id=self._derived_id(f"oversize:{stream.queue}"),
            message=Message(stream.task, stream.queue, _delivery(stream, batch)),
            failure=failure,
            records=batch.records,
            stream=stream,
            connection_ids=batch.connection_ids,
            audience_ids=batch.audience_ids,
        )
        bury(self.app.state, case)

    def _enqueue(self, stream: Stream, number: int, batch: Batch) -> None:
        digest = blake2b(f"{self.request.id}:{stream.queue}:{number}".encode(), digest_size=16)
        for unit in batch.units:
            digest.update((unit if isinstance(unit, str) else "".join(unit)).encode())
        self.app.send_task(
            stream.task,
            kwargs=_delivery(stream, batch),
            queue=stream.queue,
            task_id=str(UUID(bytes=digest.digest())),
            argsrepr=HIDDEN,
            kwargsrepr=HIDDEN,
        )

    def _derived_id(self, what: str) -> str:
        return str(uuid5(NAMESPACE_OID, f"{self.request.id}:{what}"))


def fan_out(
    changes: Iterable[Change], snapshot: Snapshot
) -> tuple[dict[Stream, Batches], Counter[tuple[Stream | None, Skip]]]:
    """The batches of each stream, and why records are missing from them."""
    streams: defaultdict[Stream, Batches] = defaultdict(Batches)
    skipped: Counter[tuple[Stream | None, Skip]] = Counter()
    for change in changes:
        routes = snapshot.routes.get(change.audience_id)
        if not routes:
            skipped[None, Skip.NO_CONNECTION] += 1
            continue
        # Connections that see a change alike share its bytes.
        seen: dict[View, Rendered] = {}
        for route in routes:
            rendered = seen.get(route.view)
            if rendered is None:
                rendered = seen[route.view] = render(change, route.view)
            if rendered.lines:
                streams[route.stream].add(rendered.lines, route.connection_id, change.audience_id)
            for skip in rendered.skipped:
                skipped[route.stream, skip] += 1
    return streams, skipped


def _delivery(stream: Stream, batch: Batch) -> dict[str, Any]:
    """The arguments of a delivery task."""
    return {
        "configuration": stream.configuration,
        "delivery_stream_name": stream.name,
        "records": batch.units,
        "connection_ids": sorted(batch.connection_ids),
        "audience_ids": sorted(batch.audience_ids),
    }


@app.task(name="audience.forward", base=ProducerTask, bind=True)
def forward(self: ProducerTask, changes: list[Any]) -> None:
    """Forward changes of audience memberships. The contract's section 3 says how a change looks."""
    if not isinstance(changes, list):
        raise TypeError("changes must be a list")
    accepted, invalid = check_changes(SCHEMA, changes, cache(self.received_at))
    if invalid:
        self.bury_invalid(invalid, len(changes), {"changes": [change.item for change in invalid]})
    self.forward(accepted, Counter())


@app.task(name="audience.forward_mparticle", base=ProducerTask, bind=True)
def forward_mparticle(self: ProducerTask, request: Any) -> None:
    """Forward the `add` and `delete` actions of an mParticle AudienceMembershipChangeRequest."""
    changes, invalid, skipped = translate(request, CATALOGUE)
    if invalid:
        alone = request
        if isinstance(request, dict) and isinstance(request.get("user_profiles"), list):
            alone = {**request, "user_profiles": [profile.item for profile in invalid]}
        self.bury_invalid(invalid, len(changes) + len(invalid), {"request": alone})
    self.forward(changes, skipped)
