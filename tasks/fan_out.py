"""From changes to the batches of each stream. Pure: reads a snapshot of the registry, sends nothing."""

from collections import Counter
from collections.abc import Iterable
from typing import NamedTuple

from schemas.changes import Change
from schemas.records import Projection, Rendered, Skip, render
from worker.firehose.batching import Batches, batch_limit
from worker.queues import Stream
from worker.state.registry import Snapshot


class Skipped(NamedTuple):
    """What a record that is not sent is counted under."""

    stream: Stream | None
    audience_id: int | None
    skip: Skip


class StreamBatches(dict[Stream, Batches]):
    """The batches of each stream, of a size that its quota allows; made when first asked for."""

    def __init__(self, snapshot: Snapshot) -> None:
        self._snapshot = snapshot

    def __missing__(self, stream: Stream) -> Batches:
        batches = self[stream] = Batches(batch_limit(self._snapshot.quota(stream)))
        return batches


def fan_out(changes: Iterable[Change], snapshot: Snapshot) -> tuple[dict[Stream, Batches], Counter[Skipped]]:
    """The batches of each stream, and why records are missing from them."""
    streams = StreamBatches(snapshot)
    skipped: Counter[Skipped] = Counter()
    for change in changes:
        routes = snapshot.routes.get(change.audience_id)
        if not routes:
            skipped[Skipped(None, change.audience_id, Skip.NO_CONNECTION)] += 1
            continue
        # Connections that see a change alike share its bytes.
        seen: dict[Projection, Rendered] = {}
        for route in routes:
            rendered = seen.get(route.projection)
            if rendered is None:
                rendered = seen[route.projection] = render(change, route.projection)
            if rendered.lines:
                streams[route.stream].add(rendered.lines, route.connection_id, change.audience_id)
            for skip in rendered.skipped:
                skipped[Skipped(route.stream, change.audience_id, skip)] += 1
    return streams, skipped
