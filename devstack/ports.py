"""Ports of this machine for servers that run beside others."""

import fcntl
import os
import random
import socket
import tempfile
from pathlib import Path
from typing import IO

LOOPBACK = "127.0.0.1"
PORTS = range(20_000, 30_000)
"""Below those that Linux, macOS and the BSDs give to connections that name none."""
LOCKS = Path(tempfile.gettempdir(), f"audience-firehose-ports-{os.getuid()}")
"""A directory with a file for each port that was ever reserved."""

_reserved: list[IO[str]] = []


def free_port(preferred: int = 0) -> int:
    """A port that nobody listens on: the preferred one where it is free.

    It is reserved for as long as this process runs: no other process that asks here is given it. Raises
    `OSError` where no port is free.
    """
    candidates = random.SystemRandom().sample(PORTS, len(PORTS))
    for port in (preferred, *candidates) if preferred else candidates:
        if _reserve(port):
            return port
    raise OSError(f"none of the ports {PORTS.start} to {PORTS.stop - 1} is free")


def _reserve(port: int) -> bool:
    """Lock the port's file and keep it locked. False where it is locked, or somebody listens on the port."""
    LOCKS.mkdir(exist_ok=True)
    lock = (LOCKS / str(port)).open("w")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        with socket.socket() as probe:
            # Connections that have just been closed do not make a port taken; a server that listens does.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((LOOPBACK, port))
    except OSError:
        lock.close()
        return False
    _reserved.append(lock)
    return True
