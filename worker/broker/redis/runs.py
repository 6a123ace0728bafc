"""The message of a run on Redis.

Each of the run's messages stays recorded as unacknowledged under its own tag. The run's task ends them;
acknowledging the run itself ends nothing.
"""

from collections.abc import Sequence
from typing import Any

from worker.broker.runs import run_call

RUN_PREFIX = "run-"
"""The prefix of a run's own delivery tag."""
ALONE = "alone"
"""The member of an envelope that keeps its message out of runs; `reserve.lua` looks for it."""


def make_run(tags: Sequence[str], queue: str) -> dict[str, Any]:
    """The message of a run, as kombu's channel delivers it: a call with the messages' delivery tags."""
    return message_of_run(queue, run_call([tags]))


def message_of_run(queue: str, call: tuple[str, dict[str, Any]]) -> dict[str, Any]:
    """The message that holds a run's call, with a delivery tag of its own."""
    run_id, message = call
    properties = {
        "correlation_id": run_id,
        "delivery_tag": f"{RUN_PREFIX}{run_id}",
        "delivery_info": {"exchange": "", "routing_key": queue},
    }
    return {**message, "properties": properties}
