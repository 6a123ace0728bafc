"""How large the stories of faults are, and what they break."""

from contextlib import ExitStack

import pytest
from full_size import FULL

from devstack import processes
from devstack.ports import free_port

RECORDS = 100_000 if FULL else 3_000
KILLS = 24 if FULL else 3
VISIBILITY_TIMEOUT = 2
"""Seconds. Real ones last for minutes; a test does not."""
HASTE = {
    "AUDIENCE_RETRY_MAX": "100000",
    "AUDIENCE_RETRY_BACKOFF_MAX": "0",
    "AUDIENCE_VISIBILITY_TIMEOUT": str(VISIBILITY_TIMEOUT),
}
PATIENT = {"AUDIENCE_VISIBILITY_TIMEOUT": "60"}
"""For stories in which no worker dies: a message that a busy machine takes long over does not come back."""
ONE_BY_ONE = {"AUDIENCE_RUN_MESSAGES": "1"}
"""Each message of changes makes batches of its own, so that a story knows their sizes."""
CONCURRENCY = 2


def in_full(*values):
    """Values of a test's parameters, as tuples, that `make chaos` alone tries."""
    return [pytest.param(*value, marks=pytest.mark.full) for value in values]


class Broker:
    """A private Redis that is stopped, killed and started again, and keeps its file and its port."""

    def __init__(self, directory, *options, server=None):
        self.directory, self.options, self.server = directory, options, server
        self.port = free_port()
        self.start()

    def start(self):
        self._running = ExitStack()
        redis = processes.redis(self.directory, *self.options, port=self.port, server=self.server)
        self.process, self.url = self._running.enter_context(redis)

    def stop(self):
        self._running.close()

    def restart(self, *, kill=False):
        if kill:
            self.process.kill()
        self.stop()
        self.start()
