"""A run: messages of `audience.changes` that a worker reserves together, as a message of its own.

Celery's machinery around a message costs a hundred times what the message's own work costs, so it handles
a run as one message. That message is in no queue: the worker's channel makes it, and its call names the
delivery tags of the messages. Each of these stays recorded as unacknowledged under its own tag. The run's
task reads them by their tags and ends them; acknowledging the run itself ends nothing.
"""

import os
import socket
from collections.abc import Sequence
from typing import Any
from uuid import uuid4

import orjson

from worker.broker.serialization import CONTENT_TYPE
from worker.queues import FORWARD_RUN

RUN_BYTES = 2 * 1024 * 1024
"""At most, as the messages lie in Redis, beyond the first of them. Bounds the memory of a pool process."""
RUN_CONTENT_BYTES = 4 * RUN_BYTES
"""At most, of the content of its messages, which may be compressed. The next run has what is beyond."""
RUN_MESSAGE_BYTES = 640 * 1024
"""A message with more content is in no run, so no record of a run can be too large for Firehose."""
ALONE = "alone"
"""The member of an envelope that keeps its message out of runs; `reserve.lua` looks for it."""


def make_run(tags: Sequence[str], queue: str) -> dict[str, Any]:
    """The message of a run, as kombu's channel delivers it: a call with the messages' delivery tags."""
    run_id = str(uuid4())
    headers = {
        "lang": "py",
        "task": FORWARD_RUN,
        "id": run_id,
        "root_id": run_id,
        "retries": 0,
        "origin": f"{os.getpid()}@{socket.gethostname()}",
    }
    return {
        "body": orjson.dumps([[tags], {}, None]).decode(),
        "content-type": CONTENT_TYPE,
        "content-encoding": "utf-8",
        "headers": headers,
        "properties": {
            "correlation_id": run_id,
            "delivery_tag": f"run-{run_id}",
            "delivery_info": {"exchange": "", "routing_key": queue},
        },
    }
