"""A broker and a state on a server each, and what may happen to one of them while the other goes on."""

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from chaos import Broker
from redis import Redis
from stack import Stack
from waiting import eventually

from devstack.firehose import FakeFirehose

SIGNS = {"broker": "Connection to broker lost", "state": "TimeoutError"}
"""What a worker writes once it has found out that a server hangs."""


class Server:
    """A Redis that can be killed, hang, and go back to what it held earlier."""

    def __init__(self, directory: Path) -> None:
        directory.mkdir()
        self._broker = Broker(directory, "--appendfsync", "always")
        self.url = self._broker.url
        self._earlier: dict[int, dict[bytes, bytes]] = {}

    def client(self, database: int = 0) -> Redis:
        return Redis.from_url(f"{self.url}/{database}")

    def kill(self) -> None:
        """End it at once, and start it again on its file."""
        self._broker.restart(kill=True)

    def freeze(self) -> None:
        """Have it hang: its connections stay, and it says nothing."""
        os.kill(self._broker.process.pid, signal.SIGSTOP)

    def thaw(self) -> None:
        os.kill(self._broker.process.pid, signal.SIGCONT)

    def keep(self) -> None:
        """Save what it holds: what a replica has that receives nothing from now on, or a backup."""
        for database in (0, 1):
            with self.client(database) as client:
                held = {key: client.dump(key) for key in client.scan_iter()}
                self._earlier[database] = {key: value for key, value in held.items() if value}

    def roll_back(self) -> None:
        """Restore what was saved, atomically, and end all connections: a replica is promoted."""
        with self.client() as client, client.pipeline(transaction=True) as pipe:
            pipe.flushall()
            for database, held in self._earlier.items():
                pipe.execute_command("SELECT", database)
                for key, value in held.items():
                    pipe.restore(key, 0, value)
            pipe.execute_command("SELECT", 0)
            pipe.execute()
            client.client_kill_filter(_type="normal", skipme=True)

    def stop(self) -> None:
        self._broker.stop()


@contextmanager
def two_servers(directory: Path) -> Iterator[tuple[Stack, dict[str, Server]]]:
    """A stack, and its servers by name."""
    servers = {name: Server(directory / name) for name in SIGNS}
    try:
        with FakeFirehose() as firehose:
            broker_url = f"{servers['broker'].url}/0"
            stack = Stack(directory, servers["state"].url, firehose, (0, 1), broker_url=broker_url)
            stack.configure("main")
            yield stack, servers
    finally:
        for server in servers.values():
            server.stop()


def until_noticed(output: Callable[[], str], name: str) -> Callable[[], None]:
    """A function that waits until a worker has found out, from now on, that a server hangs."""
    before = output().count(SIGNS[name])
    return lambda: eventually(lambda: output().count(SIGNS[name]) > before, what=SIGNS[name]) and None
