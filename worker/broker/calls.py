"""Sends calls of tasks, many at once, at a fraction of the cost of `send_task`.

For each call Celery looks for routes, makes a result and has the queue declared. Here the queue is known, the
result is ignored, and whoever collects or publishes the messages declares what must be.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

from celery import Celery
from kombu import Producer

from worker.privacy import HIDDEN


class Call(NamedTuple):
    """A call to send."""

    id: str
    task: str
    kwargs: Mapping[str, Any]
    queue: str
    headers: Mapping[str, Any]


def send_call(app: Celery, producer: Producer, call: Call, *, root_id: str, parent_id: str) -> None:
    """Send the message that `send_task` would send in the task with the ID `parent_id`."""
    message = app.amqp.create_task_message(
        call.id,
        call.task,
        kwargs=call.kwargs,
        reply_to=app.thread_oid,
        root_id=root_id,
        parent_id=parent_id,
        ignore_result=None,
        argsrepr=HIDDEN,
        kwargsrepr=HIDDEN,
    )
    app.amqp.send_task_message(
        producer, call.task, message, queue=call.queue, headers=call.headers, declare=(), retry=False
    )
