"""URLs of Redis Sentinel: `sentinel://host:26379;sentinel://host:26379/0?master_name=mymaster`.

Any one of the URLs has the database, the credentials of Redis itself and the parameters; they hold for all:

    master_name                          the master that the sentinels watch
    ssl=true, or one of ssl_cert_reqs,
    ssl_ca_certs, ssl_certfile,
    ssl_keyfile, ssl_check_hostname      TLS, to the servers and to the sentinels
    sentinel_ssl=false                   no TLS to the sentinels
    sentinel_username, sentinel_password the credentials of the sentinels
"""

from collections.abc import Mapping
from typing import Any, NamedTuple
from urllib.parse import parse_qs, unquote, urlencode, urlsplit

from redis import Redis
from redis.backoff import NoBackoff
from redis.connection import Connection
from redis.retry import Retry
from redis.sentinel import Sentinel, SentinelManagedConnection, SentinelManagedSSLConnection

SCHEME = "sentinel"
DEFAULT_PORT = 26379
DEFAULT_MASTER = "mymaster"
"""The name in the `sentinel.conf` that comes with Redis."""
MASTER_NAME = "master_name"
SSL = "ssl"
SSL_OPTIONS = ("ssl_cert_reqs", "ssl_ca_certs", "ssl_certfile", "ssl_keyfile", "ssl_check_hostname")
"""Those of a `rediss://` URL."""
SENTINEL_SSL = "sentinel_ssl"
SENTINEL_CREDENTIALS = ("sentinel_username", "sentinel_password")
SENTINEL_TIMEOUT_SECONDS = 5
"""For a connection to a sentinel, and for its answer; then the next sentinel is asked."""
ASK_ONCE = Retry(NoBackoff(), 0)
"""redis-py would ask a sentinel eleven times whose host is away, and wait for each timeout."""
PARAMETERS = (MASTER_NAME, SSL, *SSL_OPTIONS, SENTINEL_SSL, *SENTINEL_CREDENTIALS)


class _LedBySentinels(Connection):  # type: ignore[misc]
    """A connection that leaves a master that does not answer, and asks the sentinels before it connects.

    redis-py keeps a connection to a master of sentinels where an answer does not come in time, and connects
    to the same host again where a command finds it closed: in vain, where that master is cut off.
    """

    def read_response(self, *args: Any, disconnect_on_error: bool = True, **options: Any) -> Any:
        return super().read_response(*args, disconnect_on_error=disconnect_on_error, **options)

    def send_packed_command(self, *args: Any, **options: Any) -> None:
        if not self.is_connected:
            self.connect()
        super().send_packed_command(*args, **options)


class MasterConnection(_LedBySentinels, SentinelManagedConnection):  # type: ignore[misc]
    """A connection to the master that the sentinels name."""


class MasterTlsConnection(_LedBySentinels, SentinelManagedSSLConnection):  # type: ignore[misc]
    """The same over TLS."""


class SentinelUrl(NamedTuple):
    """The sentinels, and the master that they watch."""

    sentinels: list[tuple[str, int]]
    master: str
    database: int
    user_info: str
    """`user:password@` of Redis, percent-encoded; empty where it asks for none."""
    tls: Mapping[str, str]
    """The options of TLS to the servers, as in a `rediss://` URL; empty without TLS."""
    sentinel_options: Mapping[str, Any]
    """redis-py's options of connections to the sentinels, beside timeouts."""

    @property
    def url(self) -> str:
        """The URL as kombu reads it. Each sentinel has the database, whichever kombu connects to."""
        hosts = (f"[{host}]" if ":" in host else host for host, _ in self.sentinels)
        ports = (port for _, port in self.sentinels)
        query = f"?{urlencode(self.tls, safe='/')}" if self.tls else ""
        return ";".join(
            f"{SCHEME}://{self.user_info}{host}:{port}/{self.database}{query}"
            for host, port in zip(hosts, ports, strict=True)
        )

    def connect(self, **options: Any) -> Redis:
        """A client of the master, which asks the sentinels for it at each new connection."""
        user, _, password = self.user_info.rstrip("@").partition(":")
        socket_options = {name: value for name, value in options.items() if name.startswith("socket_")}
        sentinel_kwargs = {**socket_options, "retry": ASK_ONCE, **self.sentinel_options}
        sentinel = Sentinel(self.sentinels, sentinel_kwargs=sentinel_kwargs, **options)
        return sentinel.master_for(
            self.master,
            redis_class=Redis,
            db=self.database,
            username=unquote(user) or None,
            password=unquote(password) or None,
            connection_class=MasterTlsConnection if self.tls else MasterConnection,
            **_tls_options(self.tls),
        )


def is_sentinel(url: str) -> bool:
    """Whether a URL, or the first of several, leads to sentinels."""
    return url.startswith(f"{SCHEME}://")


def parse_sentinel_url(text: str) -> SentinelUrl:
    """Read the URL. Raises `ValueError`, without the URL, which may hold a password."""
    parts = [urlsplit(url.strip()) for url in text.split(";")]
    if any(part.scheme != SCHEME or not part.hostname for part in parts):
        raise ValueError("each of the URLs of sentinels must be of the form sentinel://host:26379")
    parameters = _parameters([parse_qs(part.query) for part in parts])
    databases = {part.path.strip("/") for part in parts} - {""}
    user_infos = {part.netloc.rpartition("@")[0] for part in parts} - {""}
    if max(len(databases), len(user_infos)) > 1:
        raise ValueError("sentinels have one database and one password of Redis for all of them")
    database = databases.pop() if databases else "0"
    if not database.isdecimal():
        raise ValueError("the database is not a whole number")
    tls = _tls(parameters)
    return SentinelUrl(
        sentinels=[(part.hostname or "", part.port or DEFAULT_PORT) for part in parts],
        master=parameters.get(MASTER_NAME, DEFAULT_MASTER),
        database=int(database),
        user_info=f"{user_infos.pop()}@" if user_infos else "",
        tls=tls,
        sentinel_options=_sentinel_options(parameters, tls),
    )


def kombu_url(text: str) -> tuple[str, dict[str, Any]]:
    """A broker's URL as kombu reads it, and transport options where it leads to sentinels.

    kombu takes the master's name and what the sentinels ask for as options. It connects to the second URL
    where the first fails, and to that URL's database.
    """
    if not is_sentinel(text):
        return text, {}
    parsed = parse_sentinel_url(text)
    timeouts = dict.fromkeys(("socket_timeout", "socket_connect_timeout"), SENTINEL_TIMEOUT_SECONDS)
    return parsed.url, {
        MASTER_NAME: parsed.master,
        "sentinel_kwargs": {**timeouts, "retry": ASK_ONCE, **parsed.sentinel_options},
    }


def _parameters(queries: list[dict[str, list[str]]]) -> dict[str, str]:
    """The parameters of all URLs. Raises `ValueError` for one that is not known, or has two values."""
    names = {name for query in queries for name in query}
    if unknown := sorted(names - set(PARAMETERS)):
        problem = f"{', '.join(unknown)}: the parameters of a sentinel:// URL are {', '.join(PARAMETERS)}"
        raise ValueError(problem)
    values = {name: {value for query in queries for value in query.get(name, ())} for name in names}
    if several := sorted(name for name in names if len(values[name]) > 1):
        raise ValueError(f"{', '.join(several)}: one value holds for all sentinels")
    return {name: found.pop() for name, found in values.items()}


def _tls(parameters: Mapping[str, str]) -> dict[str, str]:
    """The options of TLS to the servers. The certificate is verified unless an option says otherwise."""
    options = {name: parameters[name] for name in SSL_OPTIONS if name in parameters}
    if not _is_true(parameters, SSL, default=bool(options)):
        return {}
    return {"ssl_cert_reqs": "required", **options}


def _sentinel_options(parameters: Mapping[str, str], tls: Mapping[str, str]) -> dict[str, Any]:
    username, password = (parameters.get(name) for name in SENTINEL_CREDENTIALS)
    credentials = {"username": username, "password": password} if password else {}
    if not _is_true(parameters, SENTINEL_SSL, default=bool(tls)):
        return credentials
    return {**credentials, **_tls_options(tls or {"ssl_cert_reqs": "required"})}


def _tls_options(tls: Mapping[str, str]) -> dict[str, Any]:
    """redis-py's options of a connection over TLS."""
    if not tls:
        return {}
    options: dict[str, Any] = {"ssl": True, **tls}
    options["ssl_cert_reqs"] = tls["ssl_cert_reqs"].lower().removeprefix("cert_")
    if "ssl_check_hostname" in tls:
        options["ssl_check_hostname"] = tls["ssl_check_hostname"].lower() != "false"
    return options


def _is_true(parameters: Mapping[str, str], name: str, *, default: bool) -> bool:
    text = parameters.get(name, str(default)).lower()
    if text not in ("true", "false"):
        raise ValueError(f"{name} is true or false")
    return text == "true"
