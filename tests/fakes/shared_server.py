"""A server that the processes of the tests share: the first that needs it starts it, and ends it at last."""

import fcntl
import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import asdict, dataclass
from os import getpid
from pathlib import Path

import psutil
from waiting import eventually

from devstack.processes import Process

LAST_SECONDS = 600
"""Seconds that the others may take until the server ends."""


@dataclass(frozen=True)
class SharedServer:
    """Where it is, and the environment of its tools."""

    url: str
    environment: Mapping[str, str]


@contextmanager
def shared(
    directory: Path, start: Callable[[Path], AbstractContextManager[tuple[Process, str]]]
) -> Iterator[SharedServer]:
    """The server of the processes that name the same directory; `start` is given a new one for it."""
    users = directory / "users"
    users.mkdir(parents=True, exist_ok=True)
    address, user = directory / "address.json", users / str(getpid())
    with ExitStack() as started:
        with locked(directory):
            if not address.exists():
                own_directory = directory / str(getpid())
                own_directory.mkdir()
                process, url = started.enter_context(start(own_directory))
                started.callback(end, directory)
                address.write_text(json.dumps(asdict(SharedServer(url, process.environment))))
            user.touch()
        try:
            yield SharedServer(**json.loads(address.read_text()))
        finally:
            user.unlink()


def end(directory: Path) -> None:
    """Wait until nobody uses the server. Who comes later starts another."""

    def is_unused() -> bool:
        with locked(directory):
            unused = not any(psutil.pid_exists(int(user.name)) for user in (directory / "users").iterdir())
            if unused:
                (directory / "address.json").unlink()
            return unused

    eventually(is_unused, timeout=LAST_SECONDS, every=0.2)


@contextmanager
def locked(directory: Path) -> Iterator[None]:
    """Keep other processes waiting."""
    with (directory / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def claimed(directory: Path, name: str) -> bool:
    """Whether this process is the first to claim a name."""
    try:
        (directory / name).mkdir(parents=True)
    except FileExistsError:
        return False
    return True
