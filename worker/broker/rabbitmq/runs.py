"""Reserves messages of `audience.changes` in runs: the main process's part.

RabbitMQ sends messages ahead, on a channel of their own. Their frames are kept as they came, as decoding them
costs as much as all else that a change needs. What has arrived when there is room in the pool is a run
(`worker.broker.runs`). Celery sees the run's message alone, and the run's process decodes the frames.

A message that is to be run alone is handed to py-amqp, which decodes its frames as those of any message.

How many messages are sent ahead follows from how large they are, because AMQP limits their number only. What
exceeds the limit all the same is returned at once, and nothing is consumed until there is room.
"""

import struct
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import suppress
from itertools import count, takewhile
from typing import Any, NamedTuple

import amqp
from kombu.asynchronous import get_event_loop
from kombu.message import Message

from worker.broker.rabbitmq.queues import is_often_delivered
from worker.broker.rabbitmq.reservations import FRAMES, Frames
from worker.broker.rabbitmq.timeouts import BoundedConnection
from worker.broker.runs import RUN_BYTES, RUN_MESSAGE_BYTES, run_call
from worker.privacy import without_content
from worker.queues import CHANGES_QUEUE

AHEAD_BYTES = 16 * 1024 * 1024
"""The bytes of messages that RabbitMQ is to send ahead, by the size of former ones."""
MAX_HELD_BYTES = 2 * AHEAD_BYTES
"""The bytes of messages that the main process holds at most. A message beyond is returned, unless no more
than `AHEAD_BYTES` are held: with so much room messages are sent, and a large one would be returned again and
again."""
METHOD, HEADER, BODY = 1, 2, 3
"""Types of frames."""
DELIVER = struct.pack(">HH", 60, 60)
"""How the frame of `basic.deliver` begins: its class and its method."""
BODY_SIZE = struct.Struct(">4xQ")
"""In the frame of a content's header."""
DELIVERY_TAG = struct.Struct(">Q")
TAG_OF_CONSUMER = 4
"""The offset in a frame of `basic.deliver` of the length of the consumer's tag; the delivery tag follows."""
Callback = Callable[[Any], object]
Frame = tuple[int, int, bytes]
"""A frame's type, its channel and its content."""


class Consumer(NamedTuple):
    """A consumer of the messages."""

    tag: str
    callback: Callback
    """Called with each message."""


class Delivery(NamedTuple):
    """A message as it was delivered."""

    tag: int
    method: bytes
    """The frame of `basic.deliver`."""
    header: bytes
    body: bytes

    def __repr__(self) -> str:
        return without_content(self, "tag")

    @property
    def size(self) -> int:
        """Bytes."""
        return len(self.header) + len(self.body)

    @property
    def consumer_tag(self) -> str:
        """The tag of the consumer to which it was delivered."""
        first = TAG_OF_CONSUMER + 1
        return self.method[first : first + self.method[TAG_OF_CONSUMER]].decode()


class RunMessage(Message):  # type: ignore[misc]
    """The message of a run, as Celery handles it. Its end is that of its messages."""

    def __init__(self, runs: "Runs", deliveries: Sequence[Delivery]) -> None:
        self.deliveries = {str(delivery.tag): delivery for delivery in deliveries}
        """By delivery tag; those that end with the run."""
        self._runs = runs
        run_id, message = run_call([list(self.deliveries)])
        super().__init__(
            message["body"],
            delivery_tag=run_id,
            content_type=message["content-type"],
            content_encoding=message["content-encoding"],
            headers=message["headers"],
            delivery_info={"exchange": "", "routing_key": CHANGES_QUEUE},
            properties={
                "correlation_id": run_id,
                FRAMES: [Frames(delivery.header, delivery.body) for delivery in deliveries],
            },
        )

    def part(self, *, left: Collection[str] = (), alone: Collection[str] = ()) -> None:
        """Have messages, by delivery tag, not end with the run: another run has them, or each is alone."""
        self._runs.put_back(self._take(left), self._take(alone))

    def part_all(self) -> None:
        """Have each of its messages be run alone."""
        self.part(alone=list(self.deliveries))

    def ack(self, multiple: bool = False) -> None:
        """Acknowledge its messages."""
        self._runs.end(self)

    def reject(self, requeue: bool = False) -> None:
        """Requeue its messages. Without `requeue` each is run alone: none is dropped.

        One that came back often is run alone, too, and replaced by a copy there.
        """
        if requeue:
            self.part(alone=[tag for tag, delivery in self.deliveries.items() if _is_often(delivery)])
        else:
            self.part_all()
        self._runs.requeue(self)

    def requeue(self) -> None:
        """Requeue its messages."""
        self.reject(requeue=True)

    def _take(self, tags: Iterable[str]) -> list[Delivery]:
        return [self.deliveries.pop(tag) for tag in tags if tag in self.deliveries]


class Runs:
    """The messages of changes that a connection has reserved, on a channel of their own."""

    def __init__(self, channel: Any, *, most: int, in_pool: int) -> None:
        """`most` messages are in a run at most."""
        self._channel = channel
        self._most = most
        self.most_in_pool = in_pool
        """How many messages the pool has at most; a run is one, and each that is run alone."""
        self._consumer: Consumer | None = None
        self._begun: str | None = None
        """The tag under which messages are sent now; None while they are not."""
        self._numbers = count()
        self._prefetch = 0
        self._seen, self._seen_bytes = 0, 0
        """Messages, and their bytes, since the prefetch was set."""
        self._partial: list[bytes] = []
        """The frames of a delivery that has come in part."""
        self._missing_bytes = 0
        self._held: dict[int, int] = {}
        """By delivery tag, in their order, the bytes of messages that have not ended."""
        self._held_bytes = 0
        self._excess: list[int] = []
        """Delivery tags of messages for which there is no room."""
        self._waiting: deque[Delivery] = deque()
        self._waiting_bytes = 0
        self._alone: deque[Delivery] = deque()
        self._is_turn_of_waiting = False
        self._in_pool: set[int | str] = set()
        self._is_delivering = False

    @property
    def consumer_tag(self) -> str | None:
        """The tag of the consumer, where there is one."""
        return self._consumer and self._consumer.tag

    def consume(self, tag: str, callback: Callback) -> None:
        """Begin to consume."""
        self._consumer = Consumer(tag, callback)
        # How large the messages are is not known yet.
        self._consume(self.most_in_pool)

    def cancel(self) -> None:
        """Consume no more, and requeue what no process has begun."""
        self._stop()
        self._consumer = None
        self._requeue([*self._excess, *_tags(self._alone), *_tags(self._waiting)])
        self._excess.clear()
        self._alone.clear()
        self._waiting.clear()
        self._waiting_bytes = 0

    @property
    def messages(self) -> int:
        """How many messages are reserved, and have not ended."""
        return len(self._held)

    @property
    def is_collecting(self) -> bool:
        """Whether messages wait for which the pool has room, and fewer than a run may have."""
        return bool(self._waiting) and self._has_room and not self._is_full

    @property
    def _is_full(self) -> bool:
        return len(self._waiting) >= self._most or self._waiting_bytes >= RUN_BYTES

    @property
    def _has_room(self) -> bool:
        return len(self._in_pool) < self.most_in_pool

    def take(self, frame: Frame) -> bool | None:
        """Take a frame of a delivery: whether that is complete now. None: the frame is another one."""
        frame_type, channel_id, content = frame
        if channel_id != self._channel.channel_id:
            return None
        if frame_type == METHOD and content.startswith(DELIVER):
            self._partial = [content]
            return False
        if not self._partial or frame_type not in (HEADER, BODY):
            return None
        self._partial.append(content)
        if frame_type == HEADER:
            (self._missing_bytes,) = BODY_SIZE.unpack_from(content)
        else:
            self._missing_bytes -= len(content)
        if self._missing_bytes > 0:
            return False
        self._collect()
        return True

    def deliver(self) -> bool:
        """Hand to the pool what there is room for. Returns whether that was anything."""
        if self._is_delivering or self._consumer is None or self._channel.connection is None:
            return False
        self._is_delivering = True
        try:
            self._adapt_prefetch()
            delivered = 0
            while (
                self._consumer is not None and self._has_room and self._deliver_next(self._consumer.callback)
            ):
                delivered += 1
            return delivered > 0
        finally:
            self._is_delivering = False

    def put_back(self, left: Sequence[Delivery], alone: Sequence[Delivery]) -> None:
        """Have messages of a run wait again, next in line: for another run, or to be run alone."""
        if self._consumer is None:
            self._requeue(_tags([*left, *alone]))
            return
        self._waiting.extendleft(reversed(left))
        self._waiting_bytes += sum(delivery.size for delivery in left)
        self._alone.extend(alone)

    def end(self, run: RunMessage) -> None:
        """Acknowledge the messages of a run."""
        self._acknowledge(_tags(run.deliveries.values()))
        self._leave_pool(run.delivery_tag)

    def requeue(self, run: RunMessage) -> None:
        """Requeue the messages of a run."""
        self._requeue(_tags(run.deliveries.values()))
        self._leave_pool(run.delivery_tag)

    def forget(self, tag: int) -> None:
        """A message that was run alone was acknowledged or returned."""
        self._release([tag])
        self._leave_pool(tag)

    def _collect(self) -> None:
        method, header, *bodies = self._partial
        self._partial = []
        (tag,) = DELIVERY_TAG.unpack_from(method, TAG_OF_CONSUMER + 1 + method[TAG_OF_CONSUMER])
        delivery = Delivery(tag, method, header, bodies[0] if len(bodies) == 1 else b"".join(bodies))
        self._seen += 1
        self._seen_bytes += delivery.size
        if self._held_bytes > AHEAD_BYTES and self._held_bytes + delivery.size > MAX_HELD_BYTES:
            self._held[tag] = 0
            self._excess.append(tag)
            return
        self._held[tag] = delivery.size
        self._held_bytes += delivery.size
        if not self._waiting:
            # It may have come while an answer was awaited, and nothing else may come.
            self._deliver_soon()
        self._waiting.append(delivery)
        self._waiting_bytes += delivery.size

    def _deliver_next(self, callback: Callback) -> bool:
        if self._waiting and (self._is_turn_of_waiting or not self._alone):
            self._is_turn_of_waiting = False
            if self._waiting[0].size > RUN_MESSAGE_BYTES:
                self._deliver_alone(self._next_waiting(), callback)
            else:
                run = RunMessage(self, list(self._next_run()))
                self._in_pool.add(run.delivery_tag)
                callback(run)
        elif self._alone:
            # Each may wait for a queue that refuses it, and come back: they leave every second turn.
            self._is_turn_of_waiting = True
            self._deliver_alone(self._alone.popleft(), callback)
        else:
            return False
        return True

    def _next_run(self) -> Iterator[Delivery]:
        room = RUN_BYTES
        for number in range(self._most):
            room -= self._waiting[0].size if number else 0
            if room < 0 or self._waiting[0].size > RUN_MESSAGE_BYTES:
                return
            yield self._next_waiting()
            if not self._waiting:
                return

    def _next_waiting(self) -> Delivery:
        delivery = self._waiting.popleft()
        self._waiting_bytes -= delivery.size
        return delivery

    def _deliver_alone(self, delivery: Delivery, callback: Callback) -> None:
        self._in_pool.add(delivery.tag)
        frames = [(METHOD, delivery.method), (HEADER, delivery.header)]
        if delivery.body:
            frames.append((BODY, delivery.body))
        self._channel.handle_delivery(delivery.consumer_tag, callback, frames)

    def _adapt_prefetch(self) -> None:
        """Consume with another prefetch where sizes have changed, and not while too many bytes are held."""
        if self._excess:
            self._stop()
            excess, self._excess = self._excess, []
            self._requeue(excess)
        if self._begun is None:
            if self._held_bytes <= AHEAD_BYTES:
                self._consume(self._wanted_prefetch())
        elif self._seen >= self._prefetch:
            wanted = self._wanted_prefetch()
            if wanted >= 2 * self._prefetch or 2 * wanted <= self._prefetch:
                self._stop()
                self._consume(wanted)
            self._seen, self._seen_bytes = 0, 0

    def _wanted_prefetch(self) -> int:
        if not self._seen_bytes:
            return self.most_in_pool
        return max(1, min(self._most, AHEAD_BYTES * self._seen // self._seen_bytes))

    def _consume(self, prefetch: int) -> None:
        assert self._consumer is not None
        self._prefetch = prefetch
        self._seen, self._seen_bytes = 0, 0
        # Another tag each time: a quorum queue of RabbitMQ 3.10 fails over one that is used again.
        self._begun = f"{self._consumer.tag}.{next(self._numbers)}"
        self._channel.begin(self._begun, prefetch)

    def _stop(self) -> None:
        begun, self._begun = self._begun, None
        if begun is not None:
            self._channel.stop(begun)

    def _acknowledge(self, tags: Iterable[int]) -> None:
        """Acknowledge messages: those that are the oldest ones together."""
        ending = self._held.keys() & set(tags)
        oldest = list(takewhile(ending.__contains__, self._held))
        if oldest:
            self._channel.acknowledge(oldest[-1], multiple=True)
        for tag in ending.difference(oldest):
            self._channel.acknowledge(tag)
        self._release(ending)

    def _requeue(self, tags: Iterable[int]) -> None:
        returned = self._held.keys() & set(tags)
        self._release(returned)
        if self._channel.connection is not None:
            for tag in sorted(returned):
                self._channel.requeue(tag)

    def _release(self, tags: Iterable[int]) -> None:
        for tag in tags:
            self._held_bytes -= self._held.pop(tag, 0)

    def _leave_pool(self, tag: int | str) -> None:
        self._in_pool.discard(tag)
        self._deliver_soon()

    def _deliver_soon(self) -> None:
        if hub := get_event_loop():
            hub.call_soon(self.deliver)


def _is_often(delivery: Delivery) -> bool:
    """Whether a message came back often, as far as its properties can be read."""
    message = amqp.Message()
    with suppress(Exception):
        message.inbound_header(delivery.header)
    return is_often_delivered(message.headers)


def _tags(deliveries: Iterable[Delivery]) -> list[int]:
    return [delivery.tag for delivery in deliveries]


class RunsConnection(BoundedConnection):
    """A connection that reserves messages of changes in runs."""

    runs: Runs | None = None
    """None where nobody consumes them."""

    def blocking_read(self, timeout: float | None = None) -> Any:
        """Read a frame, and handle it. Returns whether a method is complete by it."""
        with self.transport.having_timeout(timeout):
            frame = self.transport.read_frame()
        is_complete = self.runs.take(frame) if self.runs is not None else None
        if is_complete is None:
            return self.on_inbound_frame(frame)
        # By this py-amqp sees that RabbitMQ is there.
        self.bytes_recv += 1
        return is_complete

    def drain_events(self, timeout: float | None = None) -> None:
        """Handle what has arrived: the next method, or all messages of changes. Raises `TimeoutError`."""
        runs = self.runs
        if timeout is None or runs is None:
            # An answer is awaited; what is delivered before it is handled later.
            super().drain_events(timeout)
        elif not runs.deliver():
            super().drain_events(timeout)
            with suppress(TimeoutError):
                while runs.is_collecting:
                    self.blocking_read(0)
            runs.deliver()
