"""Configurations and connections, in Redis, written only through the schemas.

Readers keep a snapshot, and look once a second whether there is a newer one.
"""

import json
import logging
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from difflib import get_close_matches
from functools import cached_property, partial
from hashlib import blake2s
from typing import Any

from marshmallow import EXCLUDE, Schema, ValidationError
from redis import Redis

from schemas.checking import sentences
from schemas.identities import Catalogue
from schemas.quotas import Quota, region_quota, stated_quota
from schemas.records import Projection
from schemas.settings import Configuration, ConfigurationSchema, Connection, ConnectionSchema
from worker.errors import InvalidSettings, NotRegistered
from worker.firehose.regions import regions
from worker.queues import Stream
from worker.state.secrets import Cipher
from worker.store.atomic import WRITE_FIRST_KEY, atomically, read_atomically
from worker.store.entries import CORRUPT_ERRORS
from worker.store.replicas import run_confirmed
from worker.store.scripts import Script

CONFIGURATIONS = "audience:configurations"
CONNECTIONS = "audience:connections"
VERSION = "audience:registry:version"
INSTALLATION = "audience:installation"
"""The identity of the installation; `worker.state.installation` says what for."""
REFRESH_AFTER_SECONDS = 1.0
"""After this time a snapshot is compared with Redis."""

SECRETS = ("secret_access_key", "session_token")
"""The settings of a configuration that are stored encrypted."""
NAMED_CONNECTIONS = 5
"""Connections that an error names."""

WRITE_ENTRY = Script(__package__, "write_entry")

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Route:
    """A connection as the producer needs it."""

    connection_id: str
    stream: Stream
    projection: Projection
    aggregate_records: bool = False


@dataclass(frozen=True)
class Snapshot:
    """The registry at one moment."""

    version: str | None
    """Changes with every write."""
    configurations: dict[str, Configuration]
    connections: dict[str, Connection]
    routes: dict[int, tuple[Route, ...]]
    """Per audience."""
    streams: frozenset[Stream]
    corrupt: frozenset[int]
    """Audiences with a connection that is corrupt, written by another program. Their changes must
    not be skipped as if they had no connection."""
    quotas: dict[Stream, Quota]
    """The quota of each stream."""
    region_quotas: Mapping[str, Quota]
    """The quotas of regions where an operator has set another than the default."""
    installation: str | None = None
    """The identity of the installation, where it has one."""

    def quota(self, stream: Stream) -> Quota:
        """Return the quota of a stream; its region's where no connection leads to it."""
        return self.quotas.get(stream) or region_quota(stream.region, self.region_quotas)

    @cached_property
    def connections_by_stream(self) -> Mapping[Stream, list[str]]:
        """The IDs of the connections that lead to each of the streams."""
        found: defaultdict[Stream, list[str]] = defaultdict(list)
        for identifier in sorted(self.connections):
            found[stream_of_connection(self.connections[identifier])].append(identifier)
        return dict(found)

    def connections_to(self, stream: Stream) -> list[str]:
        """The IDs of the connections that lead to a stream."""
        return self.connections_by_stream.get(stream, [])


def connection_id(connection: Connection) -> str:
    """Derived from audience and stream: connecting them twice is one connection."""
    digest = blake2s(stream_of_connection(connection).queue.encode(), digest_size=4).hexdigest()
    return f"{connection.audience_id}-{digest}"


def stream_of_connection(connection: Connection) -> Stream:
    """Return the stream that a connection delivers to."""
    return Stream(connection.configuration, connection.region, connection.delivery_stream_name)


class Registry:
    """The configurations and connections of the installation."""

    def __init__(
        self,
        redis: Redis,
        cipher: Cipher,
        catalogue: Catalogue,
        region_quotas: Mapping[str, Quota],
        monotonic: Callable[[], float],
        *,
        wait_replicas: int = 0,
    ) -> None:
        """`wait_replicas` are those that must have an entry before it counts as stored."""
        self._redis = redis
        self._wait_replicas = wait_replicas
        self._cipher = cipher
        self._catalogue = catalogue
        self._region_quotas = region_quotas
        self._monotonic = monotonic
        self._configurations = _Reader(ConfigurationSchema())
        self._connections = _Reader(ConnectionSchema())
        self._snapshot: Snapshot | None = None
        self._refreshed_at = 0.0

    def snapshot(self) -> Snapshot:
        """The registry, at most a second old."""
        if self._snapshot is not None and self._monotonic() - self._refreshed_at < REFRESH_AFTER_SECONDS:
            return self._snapshot
        return self.refresh()

    def refresh(self) -> Snapshot:
        """Return the registry as it is now, read anew where its version is another."""
        self._refreshed_at = self._monotonic()
        if self._snapshot is None or self._redis.get(VERSION) != self._snapshot.version:
            self._snapshot = self._load()
        return self._snapshot

    def reread(self) -> Snapshot:
        """Return the registry as it is now, read anew although its version may be known."""
        self._refreshed_at = self._monotonic()
        self._snapshot = self._load()
        return self._snapshot

    def configure(
        self,
        name: str,
        secret_access_key: str | None = None,
        session_token: str | None = None,
        **settings: Any,
    ) -> Configuration:
        """Store a configuration, new or changed. Raises `InvalidSettings` and `SecretKeyError`.

        A setting that is not given, or None, stays as it is stored; an empty text removes it. A new secret
        replaces the session token too, which belongs to the former one.
        """
        secrets = {"secret_access_key": secret_access_key, "session_token": session_token}
        if secret_access_key and session_token is None:
            secrets["session_token"] = ""

        def changed() -> dict[str, Any]:
            known = self.refresh().configurations.get(name)
            given = {**settings, **secrets, "name": name}
            if known and secret_access_key is None:
                _keep_secret_with_its_key(known, given)
            configuration: Configuration = self._checked(ConfigurationSchema(), _changed(known, given))
            stored = asdict(configuration)
            for secret, value in secrets.items():
                if value:
                    stored[secret] = self._cipher.encrypt(value)
            return stored

        self._write(CONFIGURATIONS, name, changed)
        return self.snapshot().configurations[name]

    def forget(self, name: str) -> None:
        """Remove a configuration. Raises `NotRegistered`, and `InvalidSettings` while connections use it."""

        def changed() -> None:
            if not self._redis.hexists(CONFIGURATIONS, name):
                raise _no_configuration(name)
            if users := self._connections_of(name):
                raise InvalidSettings(
                    f"{name} is used by {', '.join(users[:NAMED_CONNECTIONS])}"
                    f"{' and others' if len(users) > NAMED_CONNECTIONS else ''};"
                    f" remove them first: audience-firehose disconnect {users[0]}"
                )

        self._write(CONFIGURATIONS, name, changed)

    def reencrypt(self, name: str) -> bool:
        """Encrypt a configuration's secrets with the first key. False where it has none.

        Raises `NotRegistered`, and `SecretKeyError` where none of the keys decrypts one.
        """
        known = self.refresh().configurations.get(name)
        if known is None:
            raise _no_configuration(name)
        if not any(getattr(known, secret) for secret in SECRETS):
            return False

        def changed() -> dict[str, Any]:
            latest = self.refresh().configurations.get(name)
            if latest is None:
                raise _no_configuration(name)
            stored = asdict(latest)
            tokens = {secret: self._cipher.reencrypt(stored[secret]) for secret in SECRETS if stored[secret]}
            return {**stored, **tokens}

        self._write(CONFIGURATIONS, name, changed)
        return True

    def connect(self, **settings: Any) -> str:
        """Store a connection, new or changed, and return its ID. Raises `InvalidSettings`.

        A setting that is not given, or None, stays as it is stored; audience and stream identify it.
        An empty stream quota removes it.
        """
        without_empty = settings | {"stream_quota": settings.get("stream_quota") or None}
        wanted: Connection = self._checked(ConnectionSchema(), without_empty)
        identifier = connection_id(wanted)
        _check_region(wanted.region)

        def changed() -> dict[str, Any]:
            # Within: somebody may be forgetting the configuration meanwhile.
            if not self._redis.hexists(CONFIGURATIONS, wanted.configuration):
                raise InvalidSettings(
                    f"there is no configuration {wanted.configuration!r};"
                    f" make it first: audience-firehose configure {wanted.configuration}"
                )
            known = self.refresh().connections.get(identifier)
            return asdict(self._checked(ConnectionSchema(), _changed(known, settings)) if known else wanted)

        self._write(CONNECTIONS, identifier, changed)
        return identifier

    def disconnect(self, identifier: str) -> Connection | None:
        """Remove a connection, and return it; None where it could not be read. Raises `NotRegistered`."""
        connection = self.snapshot().connections.get(identifier)
        removed, _ = atomically(self._redis, lambda pipe: pipe.hdel(CONNECTIONS, identifier).incr(VERSION))
        self._snapshot = None
        if not removed:
            raise _no_connection(identifier)
        return connection

    def connection(self, identifier: str) -> Connection:
        """A connection by its ID. Raises `NotRegistered`."""
        try:
            return self.snapshot().connections[identifier]
        except KeyError:
            raise _no_connection(identifier) from None

    def _checked(self, schema: Schema, settings: dict[str, Any]) -> Any:
        try:
            return schema.load({name: value for name, value in settings.items() if value is not None})
        except ValidationError as error:
            raise InvalidSettings("; ".join(sentences(schema, error))) from None

    def _write(self, key: str, field: str, changed: Callable[[], dict[str, Any] | None]) -> None:
        """Write the entry that `changed` makes of the latest registry; None removes it.

        If another process has written meanwhile, it is made and written again. Raises `TooFewReplicas`.
        """
        written = False
        while not written:
            version = self.refresh().version or ""
            made = changed()
            text = "" if made is None else json.dumps(made)
            write = partial(WRITE_ENTRY, keys=[VERSION, key, WRITE_FIRST_KEY], args=[version, field, text])
            try:
                written = bool(run_confirmed(self._redis, self._wait_replicas, write))
            finally:
                self._snapshot = None

    def _connections_of(self, configuration: str) -> list[str]:
        """The IDs of the connections that use a configuration, be that one corrupt or not."""
        connections = _Reader(ConnectionSchema()).readable(self._redis.hgetall(CONNECTIONS))
        return sorted(
            name for name, connection in connections.items() if connection.configuration == configuration
        )

    def _load(self) -> Snapshot:
        version, installation, *hashes = read_atomically(
            self._redis,
            lambda pipe: pipe.get(VERSION).get(INSTALLATION).hgetall(CONFIGURATIONS).hgetall(CONNECTIONS),
        )
        raw_configurations, raw_connections = (
            dict(zip(flat[::2], flat[1::2], strict=True)) for flat in hashes
        )
        configurations = self._configurations.readable(raw_configurations)
        connections = {
            identifier: connection
            for identifier, connection in self._connections.readable(raw_connections).items()
            if connection.configuration in configurations
        }
        routes: dict[int, tuple[Route, ...]] = {}
        for identifier, connection in connections.items():
            projection = connection.projection(configurations[connection.configuration], self._catalogue)
            route = Route(
                identifier, stream_of_connection(connection), projection, connection.aggregate_records
            )
            routes[connection.audience_id] = (*routes.get(connection.audience_id, ()), route)
        return Snapshot(
            version=version,
            configurations=configurations,
            connections=connections,
            routes=routes,
            streams=frozenset(route.stream for found in routes.values() for route in found),
            corrupt=frozenset(map(_audience_of, raw_connections.keys() - connections.keys())),
            quotas=_quotas(connections.values(), self._region_quotas),
            region_quotas=self._region_quotas,
            installation=installation,
        )


def _quotas(connections: Iterable[Connection], region_quotas: Mapping[str, Quota]) -> dict[Stream, Quota]:
    """Each stream's quota: several connections may lead to it, and of what they set the smallest counts."""
    stated: defaultdict[Stream, list[str]] = defaultdict(list)
    for connection in connections:
        texts = stated[stream_of_connection(connection)]
        if connection.stream_quota:
            texts.append(connection.stream_quota)
    return {
        stream: stated_quota(region_quota(stream.region, region_quotas), texts)
        for stream, texts in stated.items()
    }


def _check_region(region: str) -> None:
    if region not in regions():
        near = get_close_matches(region, regions(), n=3)
        hint = f"; did you mean {' or '.join(near)}?" if near else ""
        raise InvalidSettings(f"region: botocore knows no region {region!r}{hint}")


def _no_configuration(name: str) -> NotRegistered:
    return NotRegistered(f"there is no configuration {name!r}; list them: audience-firehose configurations")


def _no_connection(identifier: str) -> NotRegistered:
    return NotRegistered(f"there is no connection {identifier!r}; list them: audience-firehose connections")


def _changed(known: Configuration | Connection | None, given: dict[str, Any]) -> dict[str, Any]:
    """The stored settings with those that are given in their place, without the removed ones."""
    stored = asdict(known) if known else {}
    changed = {**stored, **{name: value for name, value in given.items() if value is not None}}
    return {name: value for name, value in changed.items() if value != ""}


def _keep_secret_with_its_key(known: Configuration, given: dict[str, Any]) -> None:
    """A stored secret goes with its access key: a removed key takes it along, another one needs its own."""
    key = given.get("access_key_id")
    if key == "":
        given["secret_access_key"] = given["session_token"] = ""
    elif key not in (None, known.access_key_id) and known.secret_access_key:
        raise InvalidSettings("access_key_id: another access key needs its own secret; give both")


class _Reader:
    """Reads the entries of a hash, each only where it is not as it was the last time."""

    def __init__(self, schema: Schema) -> None:
        self._schema = schema
        self._texts: dict[str, str] = {}
        self._entries: dict[str, Any] = {}

    def readable(self, texts: dict[str, str]) -> dict[str, Any]:
        """The entries that the schema takes."""
        entries: dict[str, Any] = {}
        for field, text in texts.items():
            is_known = self._texts.get(field) == text
            entry = self._entries.get(field) if is_known else self._entry(field, text)
            if entry is not None:
                entries[field] = entry
        self._texts, self._entries = texts, entries
        return entries

    def _entry(self, field: str, text: str) -> Any:
        try:
            # A newer version may have written settings that this one does not know.
            return self._schema.load(json.loads(text), unknown=EXCLUDE)
        except (ValidationError, *CORRUPT_ERRORS):
            name = re.sub(r"[^\w-]", "?", field)
            logger.error("the registry's entry %r cannot be read; store it again", name)
            return None


def _audience_of(identifier: str) -> int:
    """The audience of a connection by the ID that `connection_id` gave it."""
    digits = re.match(r"-?[0-9]{1,19}(?=-)", identifier)
    return int(digits[0]) if digits else 0
