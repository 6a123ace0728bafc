"""The message of a run on Redis.

Each of the run's messages stays recorded as unacknowledged under its own tag. The run's task ends them;
acknowledging the run itself ends nothing.
"""

from collections.abc import Sequence
from typing import Any

from worker.broker.runs import run_call

ALONE = "alone"
"""The member of an envelope that keeps its message out of runs; `reserve.lua` looks for it."""


def make_run(tags: Sequence[str], queue: str) -> dict[str, Any]:
    """The message of a run, as kombu's channel delivers it: a call with the messages' delivery tags."""
    run_id, message = run_call(tags)
    properties = {
        "correlation_id": run_id,
        "delivery_tag": f"run-{run_id}",
        "delivery_info": {"exchange": "", "routing_key": queue},
    }
    return {**message, "properties": properties}
