"""Redis servers and sentinels on hosts of a network, each on the port that it has by default."""

import subprocess
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from network import Host
from redis import Redis
from redis.exceptions import RedisError
from waiting import eventually

from devstack import processes

MASTER = "mymaster"
REDIS_PORT = 6379
SENTINEL_PORT = 26379
SENTINEL_SETTINGS = """
port {port}
protected-mode no
dir {directory}
sentinel monitor {master} {address} {redis_port} {quorum}
sentinel down-after-milliseconds {master} 1500
sentinel failover-timeout {master} 5000
"""
WRITE = f"""
import socket
with socket.create_connection(("127.0.0.1", {REDIS_PORT}), 5) as server:
    server.sendall(b"SET audience:test 1\\r\\n")
    print(server.recv(1000).decode())
"""
"""A program that writes into the Redis of its own host, and prints the answer."""


class RedisHosts:
    """The processes that run on hosts, until `stop`."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._running = ExitStack()

    def start_server(self, host: Host, *options: str) -> None:
        """Start a Redis that any host may ask."""
        command = [processes.redis_server(), "--port", str(REDIS_PORT), "--protected-mode", "no"]
        command += ["--dir", self._directory, "--save", "", "--maxmemory-policy", "noeviction", *options]
        self._start("redis", host, command, REDIS_PORT)

    def start_replicated(self, master: Host, replicas: Sequence[Host], *options: str) -> None:
        """Start a master and its replicas, and wait until they have what it has."""
        self.start_server(master, *options)
        for replica in replicas:
            self.start_server(replica, "--replicaof", master.address, str(REDIS_PORT), *options)
        eventually(lambda: client(master).wait(len(replicas), 1000) == len(replicas))

    def start_sentinels(self, hosts: Sequence[Host], master: Host, replicas: int) -> str:
        """Start sentinels of a master, and wait until each knows the others and the replicas.

        More than a half of them must agree on a failover. Returns their URL, without a database.
        """
        for host in hosts:
            settings = self._directory / f"sentinel-{host.address}.conf"
            text = SENTINEL_SETTINGS.format(
                port=SENTINEL_PORT,
                directory=self._directory,
                master=MASTER,
                address=master.address,
                redis_port=REDIS_PORT,
                quorum=len(hosts) // 2 + 1,
            )
            settings.write_text(text)
            self._start("sentinel", host, [processes.redis_server(), settings, "--sentinel"], SENTINEL_PORT)
        for host in hosts:
            eventually(lambda host=host: _known(host) == (len(hosts) - 1, replicas))  # type: ignore[misc]
        return ";".join(f"sentinel://{host.address}:{SENTINEL_PORT}" for host in hosts)

    def accepts_writes(self, host: Host) -> bool:
        """Whether the Redis on a host accepts a write of its own host, which is not cut off from it."""
        command = [*host.inside, sys.executable, "-c", WRITE]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.startswith("+OK")

    def stop(self) -> None:
        """End all of them."""
        self._running.close()

    def _start(self, name: str, host: Host, command: Sequence[str | Path], port: int) -> None:
        log = self._directory / f"{name}-{host.address}.log"
        process = self._running.enter_context(
            processes.Process(f"{name} on {host.address}", [*host.inside, *command], log, {})
        )
        process.wait_until(lambda: _answers(host, port))


def client(host: Host, port: int = REDIS_PORT) -> Redis:
    """A client of the Redis on a host, or of its sentinel. It does not wait for a host that is cut off."""
    return Redis(host.address, port, socket_timeout=5, socket_connect_timeout=5, decode_responses=True)


def is_master(host: Host) -> bool:
    """Whether the Redis on a host says that it is a master."""
    return client(host).info("replication")["role"] == "master"


def follows(replica: Host, master: Host) -> bool:
    """Whether the Redis on a host is a replica of another, and has a connection to it."""
    info = client(replica).info("replication")
    return (info.get("master_host"), info.get("master_link_status")) == (master.address, "up")


def _answers(host: Host, port: int) -> bool:
    try:
        return bool(client(host, port).ping())
    except RedisError:
        return False


def _known(sentinel: Host) -> tuple[int, int]:
    """How many other sentinels and replicas a sentinel knows."""
    state = client(sentinel, SENTINEL_PORT).sentinel_master(MASTER)
    return int(state["num-other-sentinels"]), int(state["num-slaves"])
