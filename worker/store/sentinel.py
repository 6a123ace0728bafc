"""URLs of Redis Sentinel: `sentinel://host:26379;sentinel://host:26379/0?master_name=mymaster`.

The last URL, or any of them, has the database, the master's name and the credentials of Redis itself; they
hold for all. Sentinels that ask for a password of their own are not supported.
"""

from typing import Any, NamedTuple
from urllib.parse import parse_qs, unquote, urlsplit

from redis import Redis
from redis.sentinel import Sentinel

SCHEME = "sentinel"
DEFAULT_PORT = 26379
DEFAULT_MASTER = "mymaster"
"""The name in the `sentinel.conf` that comes with Redis."""
MASTER_NAME = "master_name"


class SentinelUrl(NamedTuple):
    """The sentinels, and the master that they watch."""

    sentinels: list[tuple[str, int]]
    master: str
    database: int
    user_info: str
    """`user:password@` of Redis, percent-encoded; empty where it asks for none."""

    @property
    def url(self) -> str:
        """The URL without the master's name. Each sentinel has the database, whichever kombu connects to."""
        hosts = (f"[{host}]" if ":" in host else host for host, _ in self.sentinels)
        ports = (port for _, port in self.sentinels)
        return ";".join(
            f"{SCHEME}://{self.user_info}{host}:{port}/{self.database}"
            for host, port in zip(hosts, ports, strict=True)
        )

    def connect(self, **options: Any) -> Redis:
        """A client of the master, which asks the sentinels for it at each new connection."""
        user, _, password = self.user_info.rstrip("@").partition(":")
        sentinel = Sentinel(self.sentinels, **options)
        return sentinel.master_for(
            self.master,
            redis_class=Redis,
            db=self.database,
            username=unquote(user) or None,
            password=unquote(password) or None,
        )


def is_sentinel(url: str) -> bool:
    """Whether a URL, or the first of several, leads to sentinels."""
    return url.startswith(f"{SCHEME}://")


def parse_sentinel_url(text: str) -> SentinelUrl:
    """Read the URL. Raises `ValueError`, without the URL, which may hold a password."""
    parts = [urlsplit(url.strip()) for url in text.split(";")]
    if any(part.scheme != SCHEME or not part.hostname for part in parts):
        raise ValueError("each of the URLs of sentinels must be of the form sentinel://host:26379")
    queries = [parse_qs(part.query) for part in parts]
    if unknown := sorted({name for query in queries for name in query} - {MASTER_NAME}):
        raise ValueError(f"{', '.join(unknown)}: the only parameter of a sentinel:// URL is {MASTER_NAME}")
    databases = {part.path.strip("/") for part in parts} - {""}
    masters = {name for query in queries for name in query.get(MASTER_NAME, ())}
    user_infos = {part.netloc.rpartition("@")[0] for part in parts} - {""}
    if max(len(databases), len(masters), len(user_infos)) > 1:
        raise ValueError("sentinels have one database, one master_name and one password for all of them")
    database = databases.pop() if databases else "0"
    if not database.isdecimal():
        raise ValueError("the database is not a whole number")
    return SentinelUrl(
        [(part.hostname or "", part.port or DEFAULT_PORT) for part in parts],
        masters.pop() if masters else DEFAULT_MASTER,
        int(database),
        f"{user_infos.pop()}@" if user_infos else "",
    )


def kombu_url(text: str) -> tuple[str, str | None]:
    """A broker's URL as kombu reads it, and the master's name where it leads to sentinels.

    kombu takes the name as an option. It connects to the second URL where the first fails, and to that URL's
    database.
    """
    if not is_sentinel(text):
        return text, None
    parsed = parse_sentinel_url(text)
    return parsed.url, parsed.master
