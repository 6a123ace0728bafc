"""A Redis with replicas, and a sentinel that makes one of them the master when the master is gone."""

import os
import signal
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from redis import Redis
from tls import Certificate
from tls_front import TlsFront
from waiting import eventually

from devstack import processes
from devstack.ports import free_port

MASTER = "private"
DOWN_AFTER_MILLISECONDS = 1500
"""A sentinel asks a server once a second. With less than that it takes each new master for dead at once, and
fails over again and again."""


@dataclass(frozen=True)
class Security:
    """What servers and sentinels ask of their clients, who reach them by ports that speak TLS.

    Among each other they use their own ports, as not every server is built with TLS.
    """

    certificate: Certificate
    password: str
    sentinel_password: str

    @property
    def query(self) -> str:
        """Parameters of a `sentinel://` URL."""
        bundle, password = self.certificate.bundle, quote(self.sentinel_password, safe="")
        return f"&ssl_ca_certs={bundle}&sentinel_password={password}"


class Replicated:
    """A master, its replicas and their sentinel, which every `redis-server` is with `--sentinel`."""

    def __init__(self, directory: Path, replicas: int = 1, security: Security | None = None) -> None:
        self._running = ExitStack()
        self._directory = directory
        self._security = security
        self.ports = [free_port() for _ in range(replicas + 1)]
        follows = ("--replicaof", processes.LOOPBACK, str(self.ports[0]))
        self.servers = [self._server(number, *(follows if number else ())) for number in range(replicas + 1)]
        self.wait_for_replica(replicas)
        self.sentinel_port = self._sentinel()
        password = f":{quote(security.password, safe='')}@" if security else ""
        port = self._fronts(security.certificate) if security else self.sentinel_port
        self.url = f"sentinel://{password}127.0.0.1:{port}"
        self.query = f"?master_name={MASTER}" + (security.query if security else "")

    def client(self, number: int) -> Redis:
        """A client of a server: 0 was the master first."""
        password = self._security.password if self._security else None
        return Redis(port=self.ports[number], password=password, decode_responses=True)

    def wait_for_replica(self, replicas: int = 1) -> None:
        """Wait until so many replicas have what the first master has."""
        client = self.client(0)
        eventually(lambda: client.set("audience:test", 1) and client.wait(replicas, 1000) == replicas)

    def kill_master(self) -> None:
        """End the first master at once; the sentinel finds out."""
        self.servers[0].kill()

    @contextmanager
    def cut_off(self) -> Iterator[None]:
        """The replicas receive nothing of what the first master writes meanwhile."""
        for replica in self.servers[1:]:
            os.kill(replica.pid, signal.SIGSTOP)
        # A replica that hangs has a socket, in which what was sent waits until it goes on.
        self.client(0).client_kill_filter(_type="replica")
        try:
            yield
        finally:
            for replica in self.servers[1:]:
                os.kill(replica.pid, signal.SIGCONT)

    def fail_over(self) -> None:
        """Have the sentinel make a replica the master, and wait until it is one."""
        self._sentinel_client().execute_command("SENTINEL", "FAILOVER", MASTER)
        eventually(self.is_failed_over)

    def is_failed_over(self) -> bool:
        """Whether a replica is the master now."""
        roles = [self.client(number).info("replication")["role"] for number in range(1, len(self.ports))]
        return "master" in roles

    def stop(self) -> None:
        self._running.close()

    def _server(self, number: int, *options: str) -> processes.Process:
        directory = self._directory / f"redis{number}"
        directory.mkdir()
        started = processes.redis(directory, *options, port=self.ports[number])
        process = self._running.enter_context(started)[0]
        if self._security:
            # Not as an option: the server counts as started once it answers without one.
            client = Redis(port=self.ports[number])
            client.config_set("masterauth", self._security.password)
            client.config_set("requirepass", self._security.password)
        return process

    def _sentinel(self) -> int:
        port, settings = free_port(), self._directory / "sentinel.conf"
        settings.write_text("\n".join(self._sentinel_settings(port)))
        command = [processes.redis_server(), settings, "--sentinel"]
        log = self._directory / "sentinel.log"
        process = self._running.enter_context(processes.Process("sentinel", command, log, {}))
        process.wait_until(lambda: processes.listens(port))
        replicas = len(self.ports) - 1
        eventually(
            lambda: int(self._sentinel_client(port).sentinel_master(MASTER)["num-slaves"]) == replicas,
            timeout=30,
        )
        return port

    def _fronts(self, certificate: Certificate) -> int:
        """Have clients speak TLS with all servers. Returns the sentinel's port, which names theirs."""
        context, told = certificate.context(), {}
        for port in self.ports:
            told[port] = self._front(TlsFront(port, context))
        return self._front(TlsFront(self.sentinel_port, context, told))

    def _front(self, front: TlsFront) -> int:
        self._running.callback(front.stop)
        return front.port

    def _sentinel_settings(self, port: int) -> list[str]:
        lines = [f"port {port}", "bind 127.0.0.1", f"dir {self._directory}"]
        lines.append(f"sentinel monitor {MASTER} 127.0.0.1 {self.ports[0]} 1")
        if self._security:
            lines.append(f"requirepass {self._security.sentinel_password}")
            lines.append(f"sentinel auth-pass {MASTER} {self._security.password}")
        lines.append(f"sentinel down-after-milliseconds {MASTER} {DOWN_AFTER_MILLISECONDS}")
        lines.append(f"sentinel failover-timeout {MASTER} 5000")
        return lines

    def _sentinel_client(self, port: int | None = None) -> Redis:
        password = self._security.sentinel_password if self._security else None
        return Redis(port=port or self.sentinel_port, password=password)
