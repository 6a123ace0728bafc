"""Garbage collection in a worker's processes skips the objects that were loaded at the start."""

import gc

import pytest
from celery.signals import worker_process_init, worker_ready

from worker.consumer.start.garbage_collection import YOUNG_OBJECTS, collect_less


@pytest.fixture
def collector():
    """A collector as it is at a process's start; at the end it is again as it was for the tests."""
    tests_own = gc.get_threshold()
    gc.unfreeze()
    gc.set_threshold(700)
    yield
    gc.freeze()
    gc.set_threshold(*tests_own)


@pytest.mark.usefixtures("collector")
@pytest.mark.parametrize("signal", [worker_ready, worker_process_init])
def test_a_process_that_has_started_collects_less(signal):
    collect_less()
    signal.send(sender="test")
    assert gc.get_freeze_count() > 1000
    assert gc.get_threshold()[0] == YOUNG_OBJECTS
    assert gc.isenabled()
