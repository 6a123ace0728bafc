"""A Redis with a replica that can hang, without sentinels."""

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from redis import Redis
from waiting import eventually

from devstack import processes


class Replication:
    """A master, and its one replica."""

    def __init__(self, master: processes.Process, replica: processes.Process, url: str) -> None:
        self.url = url
        self._master, self._replica = master, replica
        self.client = Redis.from_url(url, decode_responses=True)
        self.wait()

    def wait(self) -> None:
        """Wait until the replica has what the master has."""
        eventually(lambda: self.client.set("audience:test", 1) and self.client.wait(1, 100))

    @contextmanager
    def frozen(self) -> Iterator[None]:
        """The replica hangs: its connection stays, and it says nothing."""
        os.kill(self._replica.pid, signal.SIGSTOP)
        try:
            yield
        finally:
            os.kill(self._replica.pid, signal.SIGCONT)
            self.wait()


@contextmanager
def replication(directory: Path) -> Iterator[Replication]:
    """A master and its replica, whose files are in `directory`."""
    for name in ("master", "replica"):
        (directory / name).mkdir(parents=True)
    with processes.redis(directory / "master") as (master, url):
        port = url.rpartition(":")[2]
        follows = ("--replicaof", processes.LOOPBACK, port)
        with processes.redis(directory / "replica", *follows) as (replica, _):
            pair = Replication(master, replica, url)
            yield pair
            pair.client.close()
