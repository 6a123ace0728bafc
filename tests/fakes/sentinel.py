"""A Redis with a replica, and a sentinel that makes the replica the master when the master is gone."""

from contextlib import ExitStack
from pathlib import Path

from redis import Redis
from waiting import eventually

from devstack import processes
from devstack.ports import free_port

MASTER = "private"
DOWN_AFTER_MILLISECONDS = 500
SETTINGS = """
port {port}
bind 127.0.0.1
dir {directory}
sentinel monitor {master} 127.0.0.1 {master_port} 1
sentinel down-after-milliseconds {master} {down_after}
sentinel failover-timeout {master} 5000
"""


class Replicated:
    """Two servers and their sentinel. Every `redis-server` is a sentinel, too, with `--sentinel`."""

    def __init__(self, directory: Path) -> None:
        self._running = ExitStack()
        self._directory = directory
        self.ports = [free_port(), free_port()]
        self.servers = [
            self._server(0),
            self._server(1, "--replicaof", processes.LOOPBACK, str(self.ports[0])),
        ]
        eventually(lambda: self.client(1).info("replication").get("master_link_status") == "up")
        self.url = f"sentinel://127.0.0.1:{self._sentinel()}"

    def client(self, number: int) -> Redis:
        """A client of a server: 0 was the master first."""
        return Redis(port=self.ports[number], decode_responses=True)

    def wait_for_replica(self) -> None:
        """Wait until the replica has what the master has. Fails where it does not within five seconds."""
        assert self.client(0).wait(1, 5000) == 1

    def kill_master(self) -> None:
        """End the first master at once; the sentinel finds out."""
        self.servers[0].kill()

    def is_failed_over(self) -> bool:
        """Whether the replica is the master now."""
        return self.client(1).info("replication")["role"] == "master"

    def stop(self) -> None:
        self._running.close()

    def _server(self, number: int, *options: str) -> processes.Process:
        directory = self._directory / f"redis{number}"
        directory.mkdir()
        started = processes.redis(directory, *options, port=self.ports[number])
        return self._running.enter_context(started)[0]

    def _sentinel(self) -> int:
        port, settings = free_port(), self._directory / "sentinel.conf"
        text = SETTINGS.format(
            port=port,
            directory=self._directory,
            master=MASTER,
            master_port=self.ports[0],
            down_after=DOWN_AFTER_MILLISECONDS,
        )
        settings.write_text(text)
        command = [processes.redis_server(), settings, "--sentinel"]
        log = self._directory / "sentinel.log"
        process = self._running.enter_context(processes.Process("sentinel", command, log, {}))
        process.wait_until(lambda: processes.listens(port))
        eventually(lambda: int(Redis(port=port).sentinel_master(MASTER)["num-slaves"]) == 1, timeout=30)
        return port
