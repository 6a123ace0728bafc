"""Lists, sets and hashes of short texts, read in one answer: redis-py takes microseconds for each answer."""

from redis import Redis

from worker.store.scripts import Script

READ_JOINED = Script(__package__, "read_joined")


def read_texts(redis: Redis, key: str) -> list[str]:
    """Read the texts of a list or a set. A text that holds a line feed, which JSON does not, is two."""
    return _read(redis, key)[1]


def read_hash(redis: Redis, key: str) -> dict[str, str]:
    """Read a hash."""
    number, texts = _read(redis, key)
    if number != len(texts):
        # Another program has written a line feed.
        found: dict[str, str] = redis.hgetall(key)
        return found
    parts = iter(texts)
    return dict(zip(parts, parts, strict=True))


def _read(redis: Redis, key: str) -> tuple[int, list[str]]:
    """How many texts there are, and the texts as line feeds part them."""
    number, *texts = READ_JOINED(redis, keys=[key]).split("\n")
    return int(number), texts
