"""Unacknowledged messages: acknowledged, requeued or delayed, each atomically and in a full Redis, too."""

import logging
from collections.abc import Sequence
from math import inf
from typing import Any

from kombu.transport import redis, virtual
from redis.exceptions import OutOfMemoryError

from worker.broker.redis.index import ADD_TO_INDEX, INDEX_KEYS
from worker.broker.redis.message import decode
from worker.queues import is_stream_queue
from worker.store.scripts import Script

ACKNOWLEDGE = Script(__package__, "acknowledge")
REQUEUE = Script(__package__, "requeue", definitions=ADD_TO_INDEX)
DELAY = Script(__package__, "delay")

logger = logging.getLogger(__name__)


class QoS(redis.QoS):  # type: ignore[misc]
    """kombu's record of unacknowledged messages, kept by scripts.

    A run has no record of its own: its messages have, each under its own tag.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._runs: dict[str, Sequence[str]] = {}
        """By a run's delivery tag, those of its messages. Others choose tags, too: no name tells a run."""
        self._parted: set[str] = set()
        """Runs whose messages are requeued each to be reserved alone."""

    def append(self, message: Any, delivery_tag: str) -> None:
        if self.channel.is_delivering_reserved:
            # reserve.lua has recorded it already.
            virtual.QoS.append(self, message, delivery_tag)
        else:
            super().append(message, delivery_tag)

    def ack(self, delivery_tag: str) -> None:
        """Acknowledge a message. A run needs nothing: its task ends its messages."""
        if self.is_run(delivery_tag):
            self._forget_run(delivery_tag)
        else:
            self.end([delivery_tag])
        virtual.QoS.ack(self, delivery_tag)
        # A task has ended: a process of the pool is free, and its batches may have come into streams' queues.
        self.channel.poll_at_once()

    def end(self, tags: Sequence[str]) -> None:
        """Remove the records of messages that are done with, a run's at most at a time."""
        with self.channel.conn_or_acquire() as client:
            ACKNOWLEDGE(client, keys=self._record_keys, args=tags)

    def reject(self, delivery_tag: str, requeue: bool = False) -> None:
        if requeue:
            super().reject(delivery_tag, requeue=True)
        else:
            self.ack(delivery_tag)

    def add_run(self, delivery_tag: str, tags: Sequence[str]) -> None:
        """Record a run that is about to be delivered, with the delivery tags of its messages."""
        self._runs[delivery_tag] = tags

    def is_run(self, delivery_tag: str) -> bool:
        """Whether this is the delivery tag of a run."""
        return delivery_tag in self._runs

    def part(self, delivery_tag: str) -> None:
        """Have a run's messages requeued each to be reserved alone, where the run is rejected."""
        self._parted.add(delivery_tag)

    def restore_by_tag(
        self, tag: str | bytes, client: Any = None, leftmost: bool = False, reserved_by: float = inf
    ) -> None:
        """Requeue a message, or those of a run: last in line where `leftmost`, next in line otherwise.

        A message that was reserved again after `reserved_by` (Unix seconds) stays reserved.
        """
        if isinstance(tag, str) and self.is_run(tag):
            self.requeue(self._runs[tag], client, leftmost=leftmost, alone=tag in self._parted)
            self._forget_run(tag)
        else:
            self.requeue([tag], client, leftmost=leftmost, reserved_by=reserved_by)

    def requeue(
        self,
        tags: Sequence[str | bytes],
        client: Any = None,
        *,
        leftmost: bool = False,
        reserved_by: float = inf,
        alone: bool = False,
    ) -> None:
        """Requeue messages in their order, as `restore_by_tag` does; with `alone`, no run will hold one.

        However many they are, it takes two round trips.
        """
        if not tags:
            return
        keys, pushed = [*self._record_keys, *INDEX_KEYS], []
        with self.channel.conn_or_acquire(client) as connected:
            found = list(zip(tags, connected.hmget(self.unacked_key, tags), strict=True))
            for tag, record in found if leftmost else reversed(found):
                if record is None:
                    pushed += [tag, 0, "", 0]
                    continue
                name, text = self.channel.requeue_target(decode(record), decode(tag), alone)
                if name not in keys:
                    keys.append(name)
                pushed += [tag, keys.index(name) + 1, text, int(is_stream_queue(name))]
            end = "LPUSH" if leftmost else "RPUSH"
            refusals = iter(REQUEUE(connected, keys=keys, args=[end, reserved_by, *pushed]))
        for name, error in zip(refusals, refusals, strict=True):
            logger.error("a message stays reserved: %s refuses it: %s", decode(name), decode(error))

    def requeue_reserved_at(self, sent_at: str) -> int:
        """Requeue, in their order, what the poll reserved that was sent then. Returns how many messages.

        No other poll is sent in the same microsecond; if one were, its messages would come twice.
        """
        with self.channel.conn_or_acquire() as client:
            tags = client.zrangebyscore(self.unacked_index_key, sent_at, sent_at)
            records = client.hmget(self.unacked_key, tags) if tags else []
            # A record begins with the message's sequence number.
            found = sorted((record, tag) for record, tag in zip(records, tags, strict=True) if record)
            self.requeue([tag for _, tag in found], client)
        return len(found)

    def delay(self, delivery_tag: str, until: float) -> None:
        """Hand a reserved message back to the broker, which requeues it at a time (Unix seconds)."""
        with self.channel.conn_or_acquire() as client:
            reserved_at = until - self.visibility_timeout
            DELAY(client, keys=[self.unacked_index_key], args=[reserved_at, delivery_tag])
        virtual.QoS.ack(self, delivery_tag)

    def restore_visible(self, start: int = 0, num: int = 10, interval: int = 10) -> None:
        """Requeue the messages whose visibility timeout is over: delayed ones, and those of dead workers.

        A full Redis refuses the lock by which kombu has one worker do that; then every worker does.
        """
        try:
            super().restore_visible(start, num, interval)
        except OutOfMemoryError:
            due = self.channel.clock() - self.visibility_timeout
            with self.channel.conn_or_acquire() as client:
                for tag in client.zrangebyscore(self.unacked_index_key, 0, due, start=0, num=num):
                    self.restore_by_tag(tag, client, reserved_by=due)

    def _forget_run(self, delivery_tag: str) -> None:
        self._runs.pop(delivery_tag, None)
        self._parted.discard(delivery_tag)

    @property
    def _record_keys(self) -> list[str]:
        """The index and the hash of the unacknowledged messages."""
        return [self.unacked_index_key, self.unacked_key]
