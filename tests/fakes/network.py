"""Hosts with addresses of their own on this machine: network namespaces, joined by a bridge in one more.

The test's process is a host of the network as well. What a host sends to another can be lost on the way, as
in a broken switch: no connection is closed, and nobody gets an error. Needs root and `ip` (iproute2).
"""

import os
import secrets
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from itertools import product
from typing import Self

PREFIX = "198.18"
"""RFC 2544 sets these addresses apart for tests of networks; each network takes 256 of them."""
NUMBERS = 256
NOBODY = "02:00:00:00:00:00"
"""A MAC address that no host has: what is sent to it arrives nowhere."""


class NoNetworkError(Exception):
    """This machine or this user cannot make network namespaces. The message says why."""


def ip(*words: str | int) -> None:
    """Run `ip`. Raises `NoNetworkError` with what it says where it fails."""
    done = subprocess.run(["ip", *map(str, words)], capture_output=True, text=True, check=False)
    if done.returncode:
        raise NoNetworkError(f"ip {' '.join(map(str, words))}: {done.stderr.strip()}")


class Host:
    """A host of a network: an address, and the network namespace in which its processes run."""

    def __init__(self, address: str, interface: str, namespace: str = "") -> None:
        self.address = address
        self.inside: Sequence[str] = ("ip", "netns", "exec", namespace) if namespace else ()
        """The command that runs another one on this host."""
        self._ip = ("-netns", namespace) if namespace else ()
        self._interface = interface

    def lose(self, other: "Host") -> None:
        """From now on what this host sends to the other is lost."""
        ip(*self._ip, "neigh", "replace", other.address, "lladdr", NOBODY, "nud", "permanent", *self._device)

    def find(self, other: "Host") -> None:
        """Packets of this host to the other arrive again."""
        ip(*self._ip, "neigh", "del", other.address, *self._device)

    @property
    def _device(self) -> tuple[str, str]:
        return ("dev", self._interface)


class Network:
    """Hosts that reach each other; `here` is the test's process."""

    def __init__(self) -> None:
        if os.geteuid():
            raise NoNetworkError("network namespaces need root")
        if not shutil.which("ip"):
            raise NoNetworkError("there is no `ip`: install iproute2")
        self._parts = ExitStack()
        self._hosts = 1
        self._number = self._take_number()
        self._switch = self._name("switch")
        try:
            ip("-netns", self._switch, "link", "add", "bridge", "type", "bridge")
            ip("-netns", self._switch, "link", "set", "bridge", "up")
            self.here = self._join(f"audience{self._number}", "")
        except BaseException:
            self.stop()
            raise

    def host(self, name: str) -> Host:
        """A further host."""
        namespace = self._name(name)
        self._add_namespace(namespace)
        ip("-netns", namespace, "link", "set", "lo", "up")
        return self._join("eth0", namespace)

    def stop(self) -> None:
        """Remove the hosts. Their processes must have ended."""
        self._parts.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _take_number(self) -> int:
        """Take a number that no other network of this machine has: the kernel has each name once."""
        for _ in range(NUMBERS):
            self._number = secrets.randbelow(NUMBERS)
            try:
                self._add_namespace(self._name("switch"))
            except NoNetworkError as error:
                if "File exists" not in str(error):
                    raise
            else:
                return self._number
        raise NoNetworkError(f"{PREFIX}.0.0/16 is full of networks: remove those that nobody uses")

    def _name(self, host: str) -> str:
        return f"audience-{self._number}-{host}"

    def _add_namespace(self, namespace: str) -> None:
        ip("netns", "add", namespace)
        self._parts.callback(ip, "netns", "del", namespace)

    def _join(self, interface: str, namespace: str) -> Host:
        """Join a namespace to the bridge, by a pair of interfaces; "" is the one of the test."""
        inside = ("-netns", namespace) if namespace else ()
        address, port = f"{PREFIX}.{self._number}.{self._hosts}", f"port{self._hosts}"
        self._hosts += 1
        ip("-netns", self._switch, "link", "add", port, "type", "veth", "peer", "name", interface,
           "netns", namespace or os.getpid())  # fmt: skip
        ip("-netns", self._switch, "link", "set", port, "master", "bridge", "up")
        ip(*inside, "address", "add", f"{address}/24", "dev", interface)
        ip(*inside, "link", "set", interface, "up")
        return Host(address, interface, namespace)


@contextmanager
def losing(senders: Sequence[Host], receivers: Sequence[Host]) -> Iterator[None]:
    """Lose what the senders send to the receivers meanwhile."""
    for sender, receiver in product(senders, receivers):
        sender.lose(receiver)
    try:
        yield
    finally:
        for sender, receiver in product(senders, receivers):
            sender.find(receiver)


@contextmanager
def parted(these: Sequence[Host], those: Sequence[Host]) -> Iterator[None]:
    """Let nothing pass between these hosts and those meanwhile."""
    with losing(these, those), losing(those, these):
        yield
