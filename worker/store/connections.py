"""Timeouts and keepalive of every connection to Redis, the broker's and the state's.

A half-open connection (the peer or a firewall drops packets and closes nothing) never fails by itself. A
command ends after the socket timeout, and is not sent again: redis-py would send it ten times, and its
caller would wait for each. The poll, which an event loop waits for, has a timer:
`worker.broker.redis.poller`. An idle connection is closed by keepalive.
"""

import socket
from typing import Any

from redis import Redis
from redis.backoff import ExponentialWithJitterBackoff
from redis.exceptions import ConnectionError
from redis.retry import Retry

from worker.store.cluster import shard_options
from worker.store.sentinel import is_sentinel, parse_sentinel_url

SOCKET_TIMEOUT_SECONDS = 5
HEALTH_CHECK_SECONDS = 10
"""A connection that was idle for so long is checked before its next use."""

RETRY = Retry(ExponentialWithJitterBackoff(base=0.01, cap=1), retries=10, supported_errors=(ConnectionError,))
"""redis-py's own, but for timeouts: a command is sent again where its connection is refused or was closed."""

_KEEPALIVE = {"TCP_KEEPIDLE": 10, "TCP_KEEPINTVL": 5, "TCP_KEEPCNT": 3}
"""Seconds idle, seconds between probes, and probes: the system closes the connection after 25 seconds."""

TIMEOUTS: dict[str, Any] = {
    "socket_timeout": SOCKET_TIMEOUT_SECONDS,
    "socket_connect_timeout": SOCKET_TIMEOUT_SECONDS,
    "health_check_interval": HEALTH_CHECK_SECONDS,
}
KEEPALIVE: dict[str, Any] = {
    "socket_keepalive": True,
    # macOS lacks some of the options.
    "socket_keepalive_options": {
        getattr(socket, name): value for name, value in _KEEPALIVE.items() if hasattr(socket, name)
    },
}
"""Options of TCP connections. A Unix socket has no keepalive."""


def connection_options(url: str) -> dict[str, Any]:
    """The options of redis-py for a URL."""
    keepalive = {} if url.startswith("unix:") else KEEPALIVE
    return TIMEOUTS | keepalive | {"retry": RETRY}


def connect_redis(url: str, **options: Any) -> Redis:
    """A client of the Redis at a URL, of the cluster it belongs to, or of the master of sentinels.

    It connects when first used.
    """
    options |= connection_options(url)
    if is_sentinel(url):
        return parse_sentinel_url(url).connect(**options)
    if not url.startswith("unix:"):
        options |= shard_options(url.split(";"))
    return Redis.from_url(url.partition(";")[0], **options)
