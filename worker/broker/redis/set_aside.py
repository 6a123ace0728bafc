"""Large malformed messages, which `reserve.lua` sets aside in the broker's Redis as they are.

The message in its place bears a header with the number of bytes. Its consumer reads the bytes part by part,
keeps them elsewhere, and then has the broker forget them.
"""

from collections.abc import Iterator

from kombu.message import Message
from kombu.transport.redis import Channel

from worker.store.scripts import Script

SET_ASIDE = "audience.malformed"
"""The hash in the broker's Redis: delivery tag to bytes."""
SET_ASIDE_HEADER = "audience_set_aside"
PART_BYTES = 16 * 1024 * 1024
"""Held at once by a worker, whatever the message's size."""

READ_PART = Script(__package__, "read_part")


def is_set_aside(message: Message) -> bool:
    """Whether a message stands for one that was set aside."""
    return SET_ASIDE_HEADER in (message.headers or {}) and isinstance(message.channel, Channel)


def parts_of(message: Message) -> Iterator[bytes]:
    """The bytes that were set aside, part by part; none where they are forgotten. Raises `RedisError`."""
    start = 0
    with message.channel.conn_or_acquire() as client:
        while part := READ_PART(
            client, keys=[SET_ASIDE], args=[message.delivery_tag, start + 1, start + PART_BYTES]
        ):
            yield part
            start += len(part)


def forget(message: Message) -> None:
    """Remove the bytes from the broker's Redis. Raises `RedisError`."""
    with message.channel.conn_or_acquire() as client:
        client.hdel(SET_ASIDE, message.delivery_tag)
