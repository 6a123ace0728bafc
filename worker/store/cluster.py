"""The state on a Redis Cluster: its keys share a hash tag, so that one master serves all of them.

A script touches several keys at once, which a cluster allows only where they lie in one slot. A connection
learns from its handshake whether the server belongs to a cluster. There it puts a prefix with the hash tag
before the keys of each command, and leads to the master that owns the slot. On any other server keys stay as
they are. redis-py's client of clusters spreads keys over masters, and its pipelines are of another kind.
"""

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from redis import Redis
from redis.connection import Connection, SSLConnection
from redis.crc import key_slot
from redis.exceptions import (
    AskError,
    ClusterDownError,
    ConnectionError,
    MovedError,
    ResponseError,
    TimeoutError,
    TryAgainError,
)

from worker.store.keys import key_positions

KEY_PREFIX = "{audience-firehose}:"
"""Before every key of the state on a cluster."""
SLOT: int = key_slot(KEY_PREFIX.encode())
DEFAULT_PORT = 6379
UNKNOWN_HOSTS = ("", "?")
"""The hosts that a node names where the client is to use the address that it has."""


class Address(NamedTuple):
    """A node, as clients reach it."""

    host: str
    port: int


class ShardUnavailable(ConnectionError):  # type: ignore[misc]
    """The master that owns the state's slot changes. The command did not run, and is sent again."""


class DatabaseRefused(ResponseError):  # type: ignore[misc]
    """A Redis Cluster has no such database: have AUDIENCE_REDIS_URL end with /0."""

    def __str__(self) -> str:
        return str(self.__doc__)


class Shard:
    """The nodes of a cluster that the connections of one pool know, and the owner of the slot."""

    def __init__(self, seeds: Iterable[Address]) -> None:
        self.owner: Address | None = None
        """The master that owned the slot last; None where it is to be found."""
        self.is_in_use = False
        """Whether the server that was reached last belongs to a cluster."""
        self._seeds = list(seeds)
        self._nodes: list[Address] = []

    @property
    def nodes(self) -> list[Address]:
        """Every known node: those of the URL first, as others may have the addresses that nodes once had."""
        return list(dict.fromkeys([*self._seeds, *self._nodes]))

    def learn(self, slots: Iterable[Sequence[Any]], asked: Address) -> None:
        """Learn the nodes from a node's answer to CLUSTER SLOTS."""
        self.owner, self._nodes = None, []
        for first, last, *nodes in slots:
            addresses = [_address(node, asked) for node in nodes]
            self._nodes += addresses
            if first <= SLOT <= last:
                self.owner = addresses[0]

    def move(self, address: Sequence[Any], asked: Address) -> None:
        """Learn the owner from a node's redirection."""
        self.owner = _address(address, asked)


class _ShardConnection:
    """A connection to a server; where that belongs to a cluster, to the master that owns the state's slot."""

    host: str
    port: int
    db: int
    is_connected: bool
    handshake_metadata: Any
    disconnect: Any

    def __init__(self, *, shard: Shard, **options: Any) -> None:
        self._shard = shard
        self._is_in_cluster = False
        super().__init__(**options)

    def connect_check_health(self, check_health: bool = True, retry_socket_connect: bool = True) -> None:
        """Connect and say hello, once: callers repeat it, and each attempt may find another node."""
        if self.is_connected:
            return
        if self._shard.owner is None:
            self._find_owner(check_health)
        if self._shard.owner not in (None, self._address):
            self.disconnect()
        if not self.is_connected:
            self._connect_to(self._shard.owner or self._address, check_health)

    def send_command(self, *words: Any, **options: Any) -> None:
        """Send a command."""
        super().send_command(*self._with_prefix(words), **options)  # type: ignore[misc]

    def pack_command(self, *words: Any) -> Any:
        """Encode a command."""
        return super().pack_command(*self._with_prefix(words))  # type: ignore[misc]

    def pack_commands(self, commands: Iterable[Sequence[Any]]) -> Any:
        """Encode commands."""
        return super().pack_commands([self._with_prefix(words) for words in commands])  # type: ignore[misc]

    def read_response(self, *arguments: Any, **options: Any) -> Any:
        """Read the response to a command. Raises `ShardUnavailable` where another node is to be asked."""
        try:
            return super().read_response(*arguments, **options)  # type: ignore[misc]
        except MovedError as error:
            self._shard.move(error.node_addr, self._address)
            self._end(error)
        except (AskError, TryAgainError, ClusterDownError) as error:
            # While a slot migrates, its keys are on two masters, and no script reaches all of them.
            self._shard.owner = None
            self._end(error)
        except (ConnectionError, TimeoutError):
            self._shard.owner = None
            raise

    @property
    def _address(self) -> Address:
        return Address(self.host, int(self.port))

    def _end(self, error: ResponseError) -> None:
        self.disconnect()
        raise ShardUnavailable(f"the state's slot: {type(error).__name__}") from None

    def _find_owner(self, check_health: bool) -> None:
        """Connect to the first known node that answers, and ask it for the owner. Raises its last error."""
        problem: Exception | None = None
        for node in self._shard.nodes:
            try:
                self._connect_to(node, check_health)
                if self._is_in_cluster:
                    self._shard.learn(self._slots(), node)
            except (ConnectionError, TimeoutError) as error:
                problem = error
            else:
                return
        if problem is not None:
            raise problem

    def _connect_to(self, address: Address, check_health: bool) -> None:
        self.host, self.port = address
        try:
            super().connect_check_health(check_health=check_health, retry_socket_connect=False)  # type: ignore[misc]
        except (ConnectionError, TimeoutError):
            self._shard.owner = None
            raise
        except ResponseError:
            if self.db and self._says_cluster():
                raise DatabaseRefused from None
            raise
        self._is_in_cluster = self._shard.is_in_use = self._says_cluster()

    def _says_cluster(self) -> bool:
        """Whether the server said in the handshake that it belongs to a cluster."""
        hello: dict[Any, Any] = self.handshake_metadata or {}
        return (hello.get("mode") or hello.get(b"mode")) in ("cluster", b"cluster")

    def _slots(self) -> list[Sequence[Any]]:
        """The answer to CLUSTER SLOTS; where that is refused, redirections tell the owner."""
        self.send_command("CLUSTER", "SLOTS", check_health=False)
        try:
            found: list[Sequence[Any]] = super().read_response()  # type: ignore[misc]
        except ResponseError:
            return []
        return found

    def _with_prefix(self, words: Sequence[Any]) -> Sequence[Any]:
        if not self._is_in_cluster:
            return words
        found = list(words)
        for at in key_positions(words):
            found[at] = with_prefix(found[at])
        return found


class ShardTcpConnection(_ShardConnection, Connection):  # type: ignore[misc]
    """The connection of a `redis://` URL."""


class ShardTlsConnection(_ShardConnection, SSLConnection):  # type: ignore[misc]
    """The connection of a `rediss://` URL."""


def shard_options(urls: Sequence[str]) -> dict[str, Any]:
    """The options by which redis-py connects to the server at a URL, or to the cluster that it belongs to."""
    parts = [urlsplit(url.strip()) for url in urls]
    seeds = [Address(part.hostname or "localhost", part.port or DEFAULT_PORT) for part in parts]
    is_tls = parts[0].scheme == "rediss"
    connection_class = ShardTlsConnection if is_tls else ShardTcpConnection
    return {"connection_class": connection_class, "shard": Shard(seeds)}


def uses_shard(redis: Redis) -> bool:
    """Whether a client that is connected uses the state's slot of a cluster."""
    shard = redis.connection_pool.connection_kwargs.get("shard")
    return shard is not None and shard.is_in_use


def with_prefix(key: Any) -> Any:
    """A key, or a pattern of keys, as it is on a cluster. A key that a cluster returned has the prefix."""
    if isinstance(key, bytes):
        return key if key.startswith(KEY_PREFIX.encode()) else KEY_PREFIX.encode() + key
    return key if str(key).startswith(KEY_PREFIX) else f"{KEY_PREFIX}{key}"


def _address(node: Sequence[Any], asked: Address) -> Address:
    """The address of a node, as another node, that was asked, tells it."""
    host = node[0].decode() if isinstance(node[0], bytes) else node[0]
    return Address(asked.host if host is None or host in UNKNOWN_HOSTS else host, int(node[1]))
