"""The audiences whose changes were skipped, for each reason.

The counters say how much was skipped of a stream, or of none. An operator who is to connect an
audience, or to ask its sender, needs to know which one. A sender may invent audience ids, so each
reason keeps a bounded number of them; what is skipped of further ones is counted as one sum.
"""

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from redis import Redis

from schemas.records import Skip
from worker.store.entries import number
from worker.store.scripts import Script

SKIPPED = "audience:skipped"
MAX_AUDIENCES = 1_000
"""Kept for each reason: 20 KB of Redis."""
OTHERS = "others"
"""The field of the sum of further audiences."""

COUNT = Script(__package__, "count_skipped")


class AudienceSkips(NamedTuple):
    """The records that were skipped for one reason."""

    by_audience: dict[int, int]
    """Records by audience id, the most first."""
    others: int
    """Records of further audiences, whose ids are not kept."""

    def without(self, audience_ids: Iterable[int]) -> "AudienceSkips":
        """The same with these audiences left out."""
        left_out = set(audience_ids)
        kept = {audience: count for audience, count in self.by_audience.items() if audience not in left_out}
        return AudienceSkips(kept, self.others)


class SkippedAudiences:
    """A Redis hash for each reason, from audience id to records."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis

    def record(self, skips: Mapping[tuple[int, Skip], int], pipe: Redis | None = None) -> None:
        """Add records to those skipped of audiences; into `pipe` where there is one."""
        by_reason: dict[Skip, list[int]] = {}
        for (audience_id, skip), count in skips.items():
            by_reason.setdefault(skip, []).extend((audience_id, count))
        for skip, counts in by_reason.items():
            COUNT(
                self._redis if pipe is None else pipe,
                keys=[f"{SKIPPED}:{skip}"],
                args=[MAX_AUDIENCES, OTHERS, *counts],
            )

    def all(self) -> dict[Skip, AudienceSkips]:
        """Read the skipped records, by reason; a reason without any is left out."""
        with self._redis.pipeline(transaction=False) as pipe:
            for skip in Skip:
                pipe.hgetall(f"{SKIPPED}:{skip}")
            found = zip(Skip, pipe.execute(), strict=True)
        return {skip: _skips(counts) for skip, counts in found if counts}

    def forget(self, audience_id: int) -> None:
        """Make room: the audience has been connected."""
        self._redis.hdel(f"{SKIPPED}:{Skip.NO_CONNECTION}", str(audience_id))


def _skips(counts: Mapping[str, str]) -> AudienceSkips:
    by_audience: dict[int, int] = {}
    for audience, count in counts.items():
        try:
            by_audience[int(audience)] = number(count)
        except ValueError:
            # The sum of further audiences, or a field that another program wrote.
            continue
    ordered = sorted(by_audience.items(), key=lambda item: (-item[1], item[0]))
    return AudienceSkips(dict(ordered), number(counts.get(OTHERS)))
