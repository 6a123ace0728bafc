"""Redis as a broker that no message can fall out of.

kombu takes a message with BRPOP and notes in a second step that it is unacknowledged. A
worker killed in between, a connection cut in between, or a Redis that is full in between
loses the message. Here both are one step, a script, and so is giving a message back.

A script cannot wait for a message, as BRPOP does. A worker without work therefore rests for
`WAIT` seconds between two looks; one that has some asks Redis once a message, where kombu asks twice.
The poll names every queue, in an order that stays, so that it is put into bytes only when
a queue is added or cancelled. Redis looks through a thousand empty ones in 0.4 ms.

A message whose time has not come does not wait in a worker. It is noted as unacknowledged, so
that it comes back at its time as that of a dead worker would, to whichever worker there is then.
"""

from bisect import bisect
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import accumulate
from math import inf
from time import monotonic, sleep, time
from typing import Any

from kombu.asynchronous import Hub, get_event_loop, set_event_loop
from kombu.transport import TRANSPORT_ALIASES, redis, virtual
from kombu.utils.json import dumps, loads
from redis.client import Pipeline, Redis
from redis.exceptions import ConnectionError, OutOfMemoryError, ResponseError

from worker.queues import is_stream_queue
from worker.store.atomic import BEGIN

WAIT = 0.02
"""Seconds between two looks at empty queues: a hundredth of a core, and 10 ms a message on average."""
WAIT_PER_KEY = 50e-6
"""Seconds at least, for each list that Redis looks at. A worker without work has it look for a hundredth of
its time, with however many queues."""

RESERVE = r"""
local function quoted(bytes)
    local escaped = bytes:gsub('.', function(byte) return ('\\u%04x'):format(byte:byte()) end)
    return '"' .. escaped .. '"'
end

local function is_text(value)
    return type(value) == 'string'
end

local function tag_of(message)
    local readable, envelope = pcall(cjson.decode, message)
    local properties = readable and type(envelope) == 'table' and envelope['properties']
    local way = type(properties) == 'table' and properties['delivery_info']
    if type(way) ~= 'table' then return nil end
    local tag = properties['delivery_tag']
    if is_text(tag) and is_text(way['exchange']) and is_text(way['routing_key']) then return tag end
end

local function wrapped(bytes, tag, queue)
    return '{"body":' .. quoted(bytes) .. ',"headers":{},"properties":{"delivery_tag":' .. quoted(tag)
        .. ',"delivery_info":{"exchange":"","routing_key":' .. queue .. '}}}'
end

local queues = #KEYS - 2
for step = 0, queues - 1 do
    local i = 3 + (ARGV[2] + step) % queues
    local message = redis.call('RPOP', KEYS[i])
    if message then
        local tag, queue = tag_of(message), quoted(KEYS[i]:match('^[^\6]*'))
        if not tag then
            tag = 'foreign-' .. redis.sha1hex(message)
            message = wrapped(message, tag, queue)
        end
        redis.call('ZADD', KEYS[1], ARGV[1], tag)
        redis.call('HSET', KEYS[2], tag, '[' .. message .. ',"",' .. queue .. ']')
        return {i - 3, message, tag}
    end
end
return false
"""
"""The next message of the first queue, from a given one on, that has one: noted as kombu would note it,
but for the way back, which is to the queue that it came from, whatever exchange it was sent to.

What is no message of kombu's becomes the body of one, its bytes as the first 256 characters
of Unicode. The script begins with a command that a full Redis allows, and Redis never stops
one halfway.
"""

REQUEUE = """
if tonumber(redis.call('ZSCORE', KEYS[1], ARGV[1]) or 0) > tonumber(ARGV[2]) then return end
redis.call('ZREM', KEYS[1], ARGV[1])
if redis.call('HDEL', KEYS[2], ARGV[1]) == 1 then
    for i = 3, #KEYS do
        redis.call(ARGV[3], KEYS[i], ARGV[4])
    end
end
"""
"""The message is in its queues again, unless somebody has acknowledged it or given it back; without
queues it is gone. kombu does both in a transaction, and a full Redis begins none."""


DELAY = f"{BEGIN} redis.call('ZADD', KEYS[1], 'XX', ARGV[1], ARGV[2])"
PUSH = f"{BEGIN} redis.call('LPUSH', KEYS[1], ARGV[1])"


@contextmanager
def unless_full() -> Iterator[None]:
    """A full Redis takes no binding, and none is needed.

    A task's messages go to their queue by its name, and what is for everybody goes to whoever listens.
    """
    try:
        yield
    except ResponseError as error:
        # Before Redis 7 it is told as any error within kombu's script.
        if not (isinstance(error, OutOfMemoryError) or "OOM" in str(error)):
            raise


class Client(Redis):  # type: ignore[misc]
    """kombu's pipelines are transactions, which a full Redis does not begin. None of them has to be one."""

    def pipeline(self, transaction: bool = False, shard_hint: str | None = None) -> Pipeline:
        """A pipeline, which is a transaction only where that is said."""
        return super().pipeline(transaction, shard_hint)


class QoS(redis.QoS):  # type: ignore[misc]
    """Unacknowledged messages, which `RESERVE` has noted already."""

    def append(self, message: Any, delivery_tag: str) -> None:
        if self.channel.is_reserved:
            virtual.QoS.append(self, message, delivery_tag)
        else:
            super().append(message, delivery_tag)

    def ack(self, delivery_tag: str) -> None:
        with self.channel.conn_or_acquire() as client:
            client.eval(REQUEUE, 2, self.unacked_index_key, self.unacked_key, delivery_tag, inf)
        virtual.QoS.ack(self, delivery_tag)

    def reject(self, delivery_tag: str, requeue: bool = False) -> None:
        if requeue:
            super().reject(delivery_tag, requeue=True)
        else:
            self.ack(delivery_tag)

    def restore_by_tag(
        self, tag: str | bytes, client: Any = None, leftmost: bool = False, reserved_by: float = inf
    ) -> None:
        """Put a message back into its queue: at its end where `leftmost`, next in line otherwise.

        Unless it was taken again meanwhile, after `reserved_by` (Unix seconds).
        """
        with self.channel.conn_or_acquire(client) as connected:
            noted = connected.hget(self.unacked_key, tag)
            if noted:
                keys, text = self.channel.requeue_target(_text(noted), _text(tag))
            else:
                # Somebody has put it back, and whoever has taken it since needs the new note.
                keys, text, reserved_by = [], "", time() - self.visibility_timeout
            push = "LPUSH" if leftmost else "RPUSH"
            own = (self.unacked_index_key, self.unacked_key)
            connected.eval(REQUEUE, len(own) + len(keys), *own, *keys, tag, reserved_by, push, text)

    def delay(self, delivery_tag: str, until: float) -> None:
        """Let a message go that is to come back at a time (Unix seconds)."""
        with self.channel.conn_or_acquire() as client:
            client.eval(DELAY, 1, self.unacked_index_key, until - self.visibility_timeout, delivery_tag)
        virtual.QoS.ack(self, delivery_tag)

    def restore_visible(self, start: int = 0, num: int = 10, interval: int = 10) -> None:
        """Put back what is parked and what dead workers had taken, at its time.

        A full Redis cannot note who does that; then every worker does.
        """
        try:
            super().restore_visible(start, num, interval)
        except OutOfMemoryError:
            due = time() - self.visibility_timeout
            with self.channel.conn_or_acquire() as client:
                for tag in client.zrangebyscore(self.unacked_index_key, 0, due, start=0, num=num):
                    self.restore_by_tag(tag, client, reserved_by=due)


class Poll:
    """`RESERVE` for these queues, in bytes but for what changes from one time to the next."""

    def __init__(self, queues: list[str], keys: list[list[str]], unacked: tuple[str, str]) -> None:
        self.queues = queues
        self.wait = max(WAIT, sum(map(len, keys)) * WAIT_PER_KEY)
        """Seconds until there is a point in asking again where nothing was found."""
        self._starts = list(accumulate(map(len, keys), initial=0))
        flat = [*unacked, *(key for keys_of_queue in keys for key in keys_of_queue)]
        arguments = ("EVAL", RESERVE, len(flat), *flat)
        self._packed = b"*%d\r\n" % (len(arguments) + 2) + _bulk(*arguments)

    def packed(self, cursor: int) -> list[bytes]:
        """The command, with the queue whose cursor it is first."""
        start = self._starts[cursor % len(self.queues)]
        return [self._packed + _bulk(time(), start)]

    def place(self, key: int) -> tuple[str, int]:
        """Of the key that had a message: its queue, and the queue whose cursor it is afterwards.

        Where the queue is cancelled meanwhile, that is the second next: no queue comes first for ever.
        """
        position = bisect(self._starts, key) - 1
        return self.queues[position], position + 1


def _bulk(*arguments: Any) -> bytes:
    """Arguments in Redis's protocol."""
    encoded = [str(argument).encode() for argument in arguments]
    return b"".join(b"$%d\r\n%b\r\n" % (len(argument), argument) for argument in encoded)


def _text(content: bytes | str) -> str:
    return content if isinstance(content, str) else content.decode(errors="backslashreplace")


def malformed(text: str, tag: str, queue: str) -> dict[str, Any]:
    """A message around something that is none."""
    way = {"exchange": "", "routing_key": queue}
    return {"body": text, "headers": {}, "properties": {"delivery_tag": tag, "delivery_info": way}}


def payload_of(text: str, tag: str, queue: str) -> dict[str, Any]:
    """The message that was taken. What Lua can read, Python may not."""
    try:
        payload: dict[str, Any] = loads(text)
    except ValueError:
        return malformed(text, tag, queue)
    return payload


class AnyMessage(virtual.Message):  # type: ignore[misc]
    """A message of kombu's, or one around something that is none, which becomes a dead letter."""

    def __init__(self, payload: dict[str, Any], channel: Any = None, **options: Any) -> None:
        try:
            super().__init__(payload, channel=channel, **options)
        except Exception:
            properties = payload["properties"]
            tag, queue = properties["delivery_tag"], properties["delivery_info"]["routing_key"]
            super().__init__(malformed(dumps(payload), tag, queue), channel=channel, **options)


class Channel(redis.Channel):  # type: ignore[misc]
    """Takes messages with `RESERVE`, where they are to be acknowledged."""

    QoS = QoS
    Message = AnyMessage
    is_reserved = False
    """Whether the message that is being handed on is noted as unacknowledged."""
    _rest: Any = None
    """The timer of the next look, while there is no point in an earlier one."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._unacknowledged: set[str] = set()
        self._poll: Poll | None = None
        self._cursor = 0
        self._asked: Poll | None = None
        super().__init__(*args, **kwargs)

    @property
    def active_queues(self) -> list[str]:
        """The queues that are consumed from. kombu makes the list anew at each look."""
        return self._ask_for().queues

    def _update_queue_cycle(self) -> None:
        self._poll = None

    def _ask_for(self) -> "Poll":
        if self._poll is None:
            queues: list[str] = super().active_queues
            keys = [[self._q_for_pri(queue, step) for step in self._priorities(queue)] for queue in queues]
            self._poll = Poll(queues, keys, (self.unacked_index_key, self.unacked_key))
        return self._poll

    def _priorities(self, queue: str) -> list[int]:
        # Nobody sends to a stream but the producer tasks, who know no priorities.
        steps: list[int] = self.priority_steps
        return steps[:1] if is_stream_queue(queue) else steps

    def basic_consume(self, queue: str, no_ack: bool = False, *args: Any, **kwargs: Any) -> Any:
        if not no_ack:
            self._unacknowledged.add(queue)
        self._end_rest()
        return super().basic_consume(queue, no_ack, *args, **kwargs)

    def delay(self, message: virtual.Message, until: float) -> bool:
        """Have a message of this channel wait in the broker until a time (Unix seconds). True: it does."""
        self.qos.delay(message.delivery_tag, until)
        return True

    def _put(self, queue: str, message: dict[str, Any], **kwargs: Any) -> None:
        """Send a message. A full Redis takes retries: it holds the messages of which those are the rest."""
        try:
            super()._put(queue, message, **kwargs)
        except OutOfMemoryError:
            if not message.get("headers", {}).get("retries"):
                raise
            key = self._q_for_pri(queue, self._get_message_priority(message, reverse=False))
            with self.conn_or_acquire() as client:
                client.eval(PUSH, 1, key, dumps(message))

    def _get_client(self) -> type[Client]:
        return Client

    def _connparams(self, *args: Any, **kwargs: Any) -> Any:
        # What was in hand when a connection broke is acknowledged over it, and kombu's AttributeError
        # would end the worker. The message comes back, and its receipt says that it is done with.
        if getattr(self.connection, "client", None) is None:
            raise ConnectionError("the channel's connection is closed")
        return super()._connparams(*args, **kwargs)

    def _queue_bind(self, *args: Any) -> None:
        with unless_full():
            super()._queue_bind(*args)

    def _refresh_bindings(self, *args: Any) -> None:
        with unless_full():
            super()._refresh_bindings(*args)

    def requeue_target(self, noted: str, tag: str) -> tuple[list[str], str]:
        """The list that an unacknowledged message belongs in, and the message as it will be there."""
        text, _, routing_key = noted[1:-1].rsplit(",", 2)
        queue = loads(routing_key)
        message = payload_of(text, tag, queue)
        try:
            message.setdefault("headers", {})["redelivered"] = True
            message["properties"]["delivery_info"]["redelivered"] = True
            priority = self._get_message_priority(message, reverse=False)
        except Exception:
            return [queue], dumps(malformed(text, tag, queue))
        return [self._q_for_pri(queue, priority)], dumps(message)

    def _brpop_start(self, timeout: float | None = None) -> None:
        # What needs no acknowledgement, such as an answer to `inspect`, must not be noted.
        poll = self._ask_for()
        if not self._unacknowledged.issuperset(poll.queues):
            self._asked = None
            self._queue_cycle.update(poll.queues)
            super()._brpop_start(timeout)
        elif poll.queues and self._rest is None:
            self._asked = poll
            connection = self._in_poll = self.client.connection
            self._brpop_sent_at = monotonic()
            connection.send_packed_command(poll.packed(self._cursor))

    def _brpop_read(self, **options: Any) -> bool:
        if self._asked is None:
            return bool(super()._brpop_read(**options))
        try:
            taken = self._answer()
        finally:
            self._in_poll = None
            self._flush_brpop_reauth()
        if not taken:
            self._take_rest()
            raise redis.Empty
        key, message, tag = taken
        queue, self._cursor = self._asked.place(key)
        self._hand_on(payload_of(_text(message), _text(tag), queue), queue)
        return True

    def _take_rest(self) -> None:
        """Nothing was found: look again later. Where no event loop runs, somebody waits for just this."""
        hub = get_event_loop()
        if hub is None:
            sleep(self._ask_for().wait)
        else:
            self._rest = hub.call_later(self._ask_for().wait, self._look_again)

    def _end_rest(self) -> None:
        """There is one queue more to look at. The loop asks before it waits for anything again."""
        if self._rest is not None:
            self._rest.cancel()
            self._rest = None

    def _look_again(self) -> None:
        self._rest = None
        # The loop asks whenever something happens. Nothing may.
        if not (self.closed or self._in_poll) and self.qos.can_consume():
            self._brpop_start()

    def _answer(self) -> Any:
        connection = self.client.connection
        try:
            return self.client.parse_response(connection, "EVAL")
        except Exception:
            # The next look begins on a connection that owes no answer.
            connection.disconnect()
            raise

    def _hand_on(self, message: Any, queue: str) -> None:
        self.is_reserved = True
        try:
            self.connection._deliver(message, queue)
        finally:
            self.is_reserved = False


class Transport(redis.Transport):  # type: ignore[misc]
    """kombu's transport for Redis, with these channels."""

    Channel = Channel

    def register_with_event_loop(self, connection: Any, loop: Hub) -> None:
        # A worker that has lost the broker closes its loop and goes on with it, and kombu then knows of none.
        set_event_loop(loop)
        super().register_with_event_loop(connection, loop)


def register_redis_transport() -> None:
    """Make it this process's transport for `redis://` and `rediss://`."""
    for scheme in ("redis", "rediss"):
        TRANSPORT_ALIASES[scheme] = f"{__name__}:Transport"
