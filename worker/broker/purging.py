"""Refuses to purge queues of accepted messages: `celery purge` and `control.purge()` leave no trace of them.

Nothing would count the records that never come. The broker's own tools can still delete a queue.
"""

from typing import Any

import click

from worker.queues import CHANGES_QUEUE, is_stream_queue


class PurgeRefused(click.ClickException):
    """A queue's messages were accepted, so it is not purged. `audience-firehose pause` stops a stream."""

    def __init__(self, queue: str) -> None:
        super().__init__(
            f"{queue} is not purged: its messages were accepted, and nothing would count what never comes;"
            " `audience-firehose pause` stops a stream, and `audience-firehose discard` drops dead letters"
        )


class UnpurgedQueues:
    """A channel that drops no accepted messages. To be mixed into a transport's."""

    def queue_purge(self, queue: str = "", **options: Any) -> Any:
        """Drop a queue's messages. Raises `PurgeRefused` where they were accepted."""
        if queue == CHANGES_QUEUE or is_stream_queue(queue):
            raise PurgeRefused(queue)
        return super().queue_purge(queue, **options)  # type: ignore[misc]
