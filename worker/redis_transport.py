"""Redis as a broker that no message can fall out of.

kombu takes a message with BRPOP and notes in a second step that it is unacknowledged. A
worker killed in between, a connection cut in between, or a Redis that is full in between
loses the message. Here both are one step, a script, and so is giving a message back.

A script cannot wait for a message, as BRPOP does. A worker without work therefore looks
again every `WAIT` seconds; one that has some asks Redis once a message, where kombu asks twice.
"""

from contextlib import suppress
from time import monotonic, time
from typing import Any

from kombu.transport import TRANSPORT_ALIASES, redis, virtual
from kombu.utils.encoding import bytes_to_str
from kombu.utils.json import dumps, loads
from redis.exceptions import ConnectionError, OutOfMemoryError

WAIT = 0.02
"""Seconds between two looks at empty queues: a hundredth of a core, and 10 ms a message on average."""
SILENCE = "audience:silence"
"""A list that stays empty. Waiting for something in it is how Redis is asked to answer later."""

TAKE = r"""
local function quoted(bytes)
    local escaped = bytes:gsub('.', function(byte) return ('\\u%04x'):format(byte:byte()) end)
    return '"' .. escaped .. '"'
end

local function is_text(value)
    return type(value) == 'string'
end

local function tag_and_way(message)
    local readable, envelope = pcall(cjson.decode, message)
    local properties = readable and type(envelope) == 'table' and envelope['properties']
    local way = type(properties) == 'table' and properties['delivery_info']
    if type(way) ~= 'table' then return nil end
    local tag, exchange, routing_key = properties['delivery_tag'], way['exchange'], way['routing_key']
    if is_text(tag) and is_text(exchange) and is_text(routing_key) then return tag, exchange, routing_key end
end

local function wrapped(bytes, key)
    local queue = quoted(key:match('^[^\6]*'))
    local tag = quoted('foreign-' .. redis.sha1hex(bytes))
    return '{"body":' .. quoted(bytes) .. ',"headers":{},"properties":{"delivery_tag":' .. tag
        .. ',"delivery_info":{"exchange":"","routing_key":' .. queue .. '}}}'
end

for i = 3, #KEYS do
    local message = redis.call('RPOP', KEYS[i])
    if message then
        local tag, exchange, routing_key = tag_and_way(message)
        if not tag then
            message = wrapped(message, KEYS[i])
            tag, exchange, routing_key = tag_and_way(message)
        end
        local noted = '[' .. message .. ',' .. quoted(exchange) .. ',' .. quoted(routing_key) .. ']'
        redis.call('ZADD', KEYS[1], ARGV[1], tag)
        redis.call('HSET', KEYS[2], tag, noted)
        return {KEYS[i], message}
    end
end
return false
"""
"""The next message of the first queue that has one, noted as kombu would note it.

What is no message of kombu's becomes the body of one, its bytes as the first 256 characters
of Unicode. The script begins with a command that a full Redis allows, and Redis never stops
one halfway.
"""

GIVE_BACK = """
redis.call('ZREM', KEYS[1], ARGV[1])
if redis.call('HDEL', KEYS[2], ARGV[1]) == 1 then
    for i = 3, #KEYS do
        redis.call(ARGV[2], KEYS[i], ARGV[3])
    end
end
"""
"""The message is in its queues again, unless somebody has acknowledged it or given it back; without
queues it is gone. kombu does both in a transaction, and a full Redis begins none."""


class QoS(redis.QoS):  # type: ignore[misc]
    """Unacknowledged messages, which `TAKE` has noted already."""

    def append(self, message: Any, delivery_tag: str) -> None:
        if self.channel.is_noted:
            virtual.QoS.append(self, message, delivery_tag)
        else:
            super().append(message, delivery_tag)

    def ack(self, delivery_tag: str) -> None:
        with self.channel.conn_or_acquire() as client:
            client.eval(GIVE_BACK, 2, self.unacked_index_key, self.unacked_key, delivery_tag)
        virtual.QoS.ack(self, delivery_tag)

    def reject(self, delivery_tag: str, requeue: bool = False) -> None:
        if requeue:
            super().reject(delivery_tag, requeue=True)
        else:
            self.ack(delivery_tag)

    def restore_by_tag(self, tag: str | bytes, client: Any = None, leftmost: bool = False) -> None:
        """Put a message back into its queue: at its end where `leftmost`, next in line otherwise."""
        with self.channel.conn_or_acquire(client) as connected:
            noted = connected.hget(self.unacked_key, tag)
            keys, text = self.channel.way_back(bytes_to_str(noted)) if noted else ([], "")
            push = "LPUSH" if leftmost else "RPUSH"
            own = (self.unacked_index_key, self.unacked_key)
            connected.eval(GIVE_BACK, len(own) + len(keys), *own, *keys, tag, push, text)

    def restore_visible(self, *args: Any, **kwargs: Any) -> None:
        """Put back what dead workers had taken. A full Redis cannot note who does that; then later."""
        with suppress(OutOfMemoryError):
            super().restore_visible(*args, **kwargs)


class Channel(redis.Channel):  # type: ignore[misc]
    """Takes messages with `TAKE`, where they are to be acknowledged."""

    QoS = QoS
    is_noted = False
    """Whether the message that is being handed on is noted as unacknowledged."""
    _takes = False
    _found_nothing = False

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._unacknowledged: set[str] = set()
        super().__init__(*args, **kwargs)

    def basic_consume(self, queue: str, no_ack: bool = False, *args: Any, **kwargs: Any) -> Any:
        if not no_ack:
            self._unacknowledged.add(queue)
        return super().basic_consume(queue, no_ack, *args, **kwargs)

    def _connparams(self, *args: Any, **kwargs: Any) -> Any:
        # What was in hand when a connection broke is acknowledged over it, and kombu's AttributeError
        # would end the worker. The message comes back, and its receipt says that it is done with.
        if getattr(self.connection, "client", None) is None:
            raise ConnectionError("the channel's connection is closed")
        return super()._connparams(*args, **kwargs)

    def _queue_bind(self, *args: Any) -> None:
        # A full Redis takes no binding, and a task's queue needs none: its messages go there by its name.
        with suppress(OutOfMemoryError):
            super()._queue_bind(*args)

    def _size(self, queue: str) -> int:
        # Not in a transaction, as is kombu's: a full Redis begins none.
        with self.conn_or_acquire() as client, client.pipeline(transaction=False) as pipe:
            for priority in self.priority_steps:
                pipe.llen(self._q_for_pri(queue, priority))
            return sum(pipe.execute())

    def way_back(self, noted: str) -> tuple[list[str], str]:
        """The queues that an unacknowledged message belongs in, and the message as it will be there."""
        message, exchange, routing_key = loads(noted)
        message.setdefault("headers", {})["redelivered"] = True
        message["properties"]["delivery_info"]["redelivered"] = True
        priority = self._get_message_priority(message, reverse=False)
        queues = self._lookup(exchange, routing_key)
        return [self._q_for_pri(queue, priority) for queue in queues], dumps(message)

    def _brpop_start(self, timeout: float | None = None) -> None:
        # What needs no acknowledgement, such as an answer to `inspect`, must not be noted.
        self._takes = self._unacknowledged.issuperset(self.active_queues)
        if not self._takes:
            super()._brpop_start(timeout)
            return
        queues = self._queue_cycle.consume(len(self.active_queues))
        if not queues:
            return
        keys = [self._q_for_pri(queue, priority) for priority in self.priority_steps for queue in queues]
        connection = self._in_poll = self.client.connection
        self._brpop_sent_at = monotonic()
        if self._found_nothing:
            connection.send_command("BRPOP", SILENCE, WAIT)
        connection.send_command(
            "EVAL", TAKE, 2 + len(keys), self.unacked_index_key, self.unacked_key, *keys, time()
        )

    def _brpop_read(self, **options: Any) -> bool:
        if not self._takes:
            return bool(super()._brpop_read(**options))
        try:
            taken = self._answer()
        finally:
            self._in_poll = None
            self._flush_brpop_reauth()
        self._found_nothing = not taken
        if not taken:
            raise redis.Empty
        key, message = taken
        queue = bytes_to_str(key).rsplit(self.sep, 1)[0]
        self._queue_cycle.rotate(queue)
        self._hand_on(loads(bytes_to_str(message)), queue)
        return True

    def _answer(self) -> Any:
        connection = self.client.connection
        try:
            if self._found_nothing:
                self.client.parse_response(connection, "BRPOP")
            return self.client.parse_response(connection, "EVAL")
        except Exception:
            # The next look begins on a connection that owes no answer.
            connection.disconnect()
            raise

    def _hand_on(self, message: Any, queue: str) -> None:
        self.is_noted = True
        try:
            self.connection._deliver(message, queue)
        finally:
            self.is_noted = False


class Transport(redis.Transport):  # type: ignore[misc]
    """kombu's transport for Redis, with these channels."""

    Channel = Channel


def use_safe_redis() -> None:
    """Make it this process's transport for `redis://` and `rediss://`."""
    for scheme in ("redis", "rediss"):
        TRANSPORT_ALIASES[scheme] = f"{__name__}:Transport"
