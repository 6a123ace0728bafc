"""Garbage collection in the processes of a worker.

Python's collector looks at all containers again and again, and what a process has loaded is 90,000 of them.
They are put out of its sight when a process has started, uncollected, so that a pool process goes on sharing
their memory with the main process. It then collects less often: the content of a
message is some thousand containers that end without its help.
"""

import gc
from typing import Any

from celery.signals import worker_process_init, worker_ready

YOUNG_OBJECTS = 20_000
"""Containers made, less those that have ended, before the collector looks at them. Python's number is 700."""


def freeze_what_is_loaded(**_: Any) -> None:
    """Have the collector ignore every object that exists now, and look at later ones less often."""
    gc.freeze()
    gc.set_threshold(YOUNG_OBJECTS)


def collect_less() -> None:
    """Do so in the main process when it is ready, and in each pool process when it has started."""
    worker_ready.connect(freeze_what_is_loaded)
    worker_process_init.connect(freeze_what_is_loaded)
