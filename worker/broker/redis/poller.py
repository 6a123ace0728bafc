"""kombu's poller, which tells a worker at once that its connection to the broker is half-open.

Packets are dropped and nothing is closed, so the socket never becomes readable and no read ends. kombu
reconnects such a poll after 11 to 21 seconds behind the worker's back, and goes on where a command times out.
Each of the worker's periodic commands then waits for its timeout, one after another, and the worker does
nothing else.
"""

from kombu.transport import redis
from redis.exceptions import TimeoutError

from worker.store.connections import SOCKET_TIMEOUT_SECONDS


class Poller(redis.MultiChannelPoller):  # type: ignore[misc]
    """Raises a connection error where a poll's reply is overdue, and where no message can be requeued."""

    def maybe_check_brpop_health(self) -> None:
        """Raise `TimeoutError` where a reply is overdue: the worker reconnects, with all it consumes."""
        for channel in self._channels:
            if is_overdue(channel, channel.monotonic()):
                self.mark_lost()
                raise TimeoutError("the broker does not reply to the poll")

    def maybe_restore_messages(self) -> None:
        """Requeue what is due. Raises connection errors, which kombu logs for debugging only."""
        for channel in self._channels:
            if channel.active_queues:
                self._restore_messages(channel)
                return

    def mark_lost(self) -> None:
        """Have the channels close without the server."""
        for channel in self._channels:
            channel.mark_lost()

    def _restore_messages(self, channel: redis.Channel) -> None:
        try:
            channel.qos.restore_visible(
                num=channel.unacked_restore_limit, interval=channel.unacked_restore_throttle
            )
        except TimeoutError:
            self.mark_lost()
            raise


def is_overdue(channel: redis.Channel, now: float) -> bool:
    """Whether the reply to a poll should have come by `now`, in seconds of the monotonic clock.

    A reply that has come and waits to be read is not overdue.
    """
    connection = channel._in_poll
    if not connection or channel._brpop_sent_at is None:
        return False
    if now - channel._brpop_sent_at < channel.brpop_timeout + SOCKET_TIMEOUT_SECONDS:
        return False
    return connection._sock is not None and not redis._socket_readable(connection._sock)
