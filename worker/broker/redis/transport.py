"""Redis as a broker that loses no message: kombu's transport, with channels that reserve atomically.

A message is popped and recorded as unacknowledged by one script, and requeued by one. A message whose time
has not come does not wait in a worker: it stays recorded as unacknowledged, dated so that its visibility
timeout ends at its time, and is requeued like a message of a worker that died.
"""

from typing import Any

from kombu.asynchronous import Hub, set_event_loop
from kombu.transport import redis

from worker.broker.redis.channel import CHANNEL_OPTIONS, Channel
from worker.broker.redis.poller import Poller
from worker.store.sentinel import SCHEME, MasterConnection, MasterTlsConnection
from worker.upstream import register_transport

OVERDUE_CHECK_SECONDS = 1.0


class Transport(redis.Transport):  # type: ignore[misc]
    """kombu's transport for Redis, with these channels."""

    Channel = Channel

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.cycle = Poller()

    def register_with_event_loop(self, connection: Any, loop: Hub) -> None:
        # A worker that has lost the broker closes its loop and goes on with it; kombu then knows no loop.
        set_event_loop(loop)
        super().register_with_event_loop(connection, loop)
        # Celery cancels, with a connection, the timers that were made for it.
        loop.call_repeatedly(OVERDUE_CHECK_SECONDS, self.cycle.maybe_check_brpop_health)


class SentinelChannel(Channel, redis.SentinelChannel):  # type: ignore[misc]
    """A channel whose connections lead to the master that the sentinels name."""

    from_transport_options = (*redis.SentinelChannel.from_transport_options, *CHANNEL_OPTIONS)
    connection_class = MasterConnection
    connection_class_ssl = MasterTlsConnection


class SentinelTransport(Transport):
    """This transport over Redis Sentinel. The option `master_name` says which master."""

    Channel = SentinelChannel


def register_redis_transport() -> None:
    """Make these this process's transports for `redis://`, `rediss://` and `sentinel://`."""
    register_transport(("redis", "rediss"), f"{__name__}:Transport")
    register_transport((SCHEME,), f"{__name__}:SentinelTransport")
