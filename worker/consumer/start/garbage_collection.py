"""Garbage collection in the processes of a worker, and in the dashboard.

Python's collector traverses all containers again and again, and a process has loaded 90,000 of them. When a
process has started they are frozen, so that the collector skips them and a pool process goes on sharing their
memory with the main process. It then also collects less often: a message's content is some thousand
containers, which are freed without it.
"""

import gc
from typing import Any

from celery.signals import worker_process_init, worker_ready

YOUNG_OBJECTS = 20_000
"""Containers made, less those that were freed, before the collector runs. Python's number is 700."""


def freeze_loaded_objects(**_: Any) -> None:
    """Freeze every object that exists now, and collect later ones less often."""
    gc.freeze()
    gc.set_threshold(YOUNG_OBJECTS)


def collect_less() -> None:
    """Freeze them in the main process when it is ready, and in each pool process when it has started."""
    worker_ready.connect(freeze_loaded_objects)
    worker_process_init.connect(freeze_loaded_objects)
