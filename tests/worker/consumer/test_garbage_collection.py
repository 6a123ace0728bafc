"""Garbage collection in a worker's processes skips the objects that were loaded at the start."""

import gc

import pytest
from celery.signals import worker_process_init, worker_ready

from worker.consumer.garbage_collection import YOUNG_OBJECTS, collect_less


@pytest.fixture
def collector():
    """Python's own collector, again as it was at the end."""
    before = gc.get_threshold()
    yield
    gc.unfreeze()
    gc.set_threshold(*before)


@pytest.mark.usefixtures("collector")
@pytest.mark.parametrize("signal", [worker_ready, worker_process_init])
def test_a_process_that_has_started_collects_less(signal):
    collect_less()
    gc.unfreeze()
    signal.send(sender="test")
    assert gc.get_freeze_count() > 1000
    assert gc.get_threshold()[0] == YOUNG_OBJECTS
    assert gc.isenabled()
