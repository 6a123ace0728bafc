"""Waits on Redis for a message of changes, so that an idle worker begins at once.

BLMOVE with one list as source and destination, and with the same end of it, moves a message to where it is:
it changes nothing, blocks while the list is empty, and the message is in its list at each moment. A poll
reserves the message then. The server's reply would hold the message, however large, and so is turned off
until the wait is over; the reply to turning it on again says that it is.
"""

import logging
from collections.abc import Callable
from time import monotonic as monotonic_clock

from kombu.asynchronous import Hub
from redis import Connection, ConnectionPool
from redis.exceptions import RedisError

WAIT_SECONDS = 10
"""For which the server blocks at most. A new wait begins then."""
LOST_AFTER_SECONDS = 2 * WAIT_SECONDS
"""A wait that is not over by then is over a half-open connection."""
SHORT_WAIT_SECONDS = 0.02
MAX_SHORT_WAITS = 20
"""In a row, after which no message was found: the server refuses BLMOVE, being full or denying it."""
REST_SECONDS = 60.0
"""Without a wait, where the server refuses it: the worker still polls."""

logger = logging.getLogger(__name__)


class Waiter:
    """Waits for a message in a list, over a connection of its own."""

    def __init__(
        self,
        pool: ConnectionPool,
        hub: Hub,
        name: str,
        on_message: Callable[[], None],
        monotonic: Callable[[], float] = monotonic_clock,
    ) -> None:
        """`name` is the list's. `on_message` is called when it holds a message, and sometimes when not."""
        self._pool = pool
        self._hub = hub
        self._command = [
            ("CLIENT", "REPLY", "OFF"),
            ("BLMOVE", name, name, "RIGHT", "RIGHT", WAIT_SECONDS),
            ("CLIENT", "REPLY", "ON"),
        ]
        self._on_message = on_message
        self._monotonic = monotonic
        self._connection: Connection | None = None
        self._began_at: float | None = None
        """In the clock's seconds; None where no wait has begun."""
        self._short_waits = 0
        self._rests_until = 0.0

    @property
    def is_waiting(self) -> bool:
        """Whether a wait has begun and is not over."""
        return self._began_at is not None

    def begin(self) -> None:
        """Begin a wait, unless one has begun or the server refuses it."""
        now = self._monotonic()
        if self._began_at is not None and now - self._began_at > LOST_AFTER_SECONDS:
            self.close()
        if self.is_waiting or now < self._rests_until:
            return
        try:
            connection = self._connected()
            connection.send_packed_command(connection.pack_commands(self._command), check_health=False)
        except RedisError as error:
            self._give_up(error)
        else:
            self._began_at = now

    def found_message(self) -> None:
        """Take the last waits for good ones, however short they were."""
        self._short_waits = 0

    def close(self) -> None:
        """End the wait with its connection."""
        connection, self._connection, self._began_at = self._connection, None, None
        if connection is not None:
            if connection._sock is not None:
                self._hub.remove_reader(connection._sock)
            connection.disconnect()
            self._pool.release(connection)

    def _connected(self) -> Connection:
        if self._connection is None:
            self._connection = self._pool.get_connection()
            self._hub.add_reader(self._connection._sock, self._on_readable)
        return self._connection

    def _on_readable(self) -> None:
        if self._connection is None or self._began_at is None:
            self.close()
            return
        try:
            self._connection.read_response()
        except RedisError as error:
            self._give_up(error)
            return
        waited = self._monotonic() - self._began_at
        self._began_at = None
        self._rest_if_refused(waited)
        self._on_message()

    def _rest_if_refused(self, waited: float) -> None:
        self._short_waits = self._short_waits + 1 if waited < SHORT_WAIT_SECONDS else 0
        if self._short_waits >= MAX_SHORT_WAITS:
            self._short_waits = 0
            self._rests_until = self._monotonic() + REST_SECONDS

    def _give_up(self, error: RedisError) -> None:
        """Wait no more for a while. Whether the broker is lost, the poll tells."""
        logger.debug("cannot wait for messages, polling only: %s", type(error).__name__)
        self._rests_until = self._monotonic() + REST_SECONDS
        self.close()
