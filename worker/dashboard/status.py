"""The streams' status, with the backlogs of the queues that it was read from."""

from collections.abc import Iterable
from typing import Any

from worker.broker.client import Backlog, backlogs
from worker.status import Status


def read_status(capp: Any) -> tuple[Status, dict[str, Backlog]]:
    """Read the status of all streams, and each queue's backlog. Raises `RedisError`.

    Where the broker does not answer, the status names the problem, and no backlog is known.
    """
    seen: dict[str, Backlog] = {}

    def lengths(queues: Iterable[str]) -> dict[str, int]:
        seen.update(backlogs(capp, queues))
        return {queue: backlog.messages for queue, backlog in seen.items()}

    return capp.services.status.read(lengths), seen
