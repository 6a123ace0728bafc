"""kombu's channel for Redis, which polls with a script instead of BRPOP.

BRPOP pops a message, and kombu records it as unacknowledged in a second command. A worker that dies in
between loses the message. `reserve.lua` does both atomically, but a script cannot block until there is a
message: a worker that found none polls again after the poll interval. `rotation` says which queues a poll
looks at, and `waiting` has the server tell an idle worker of a change.
"""

import logging
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

from kombu.asynchronous import Hub, get_event_loop
from kombu.transport import redis, virtual
from kombu.utils.json import loads
from redis.exceptions import ConnectionError, NoScriptError, OutOfMemoryError, ResponseError

from worker.broker.handovers import MARK_HEADER
from worker.broker.purging import UnpurgedQueues
from worker.broker.redis.bodies import leave_body
from worker.broker.redis.client import Client
from worker.broker.redis.delivery_runs import DeliveryLimit, make_delivery_run
from worker.broker.redis.index import ADD_TO_INDEX, INDEX_KEYS
from worker.broker.redis.message import Message, parse, wrap_malformed
from worker.broker.redis.poll import (
    POLL_INTERVAL_SECONDS,
    POLLS_BEFORE_WAIT,
    WAITING_POLL_INTERVAL_SECONDS,
    Answer,
    Poll,
    PollCommands,
)
from worker.broker.redis.qos import QoS
from worker.broker.redis.rotation import Rotation
from worker.broker.redis.runs import ALONE, make_run
from worker.broker.redis.waiting import Waiter
from worker.broker.serialization import FastBase64, dumps
from worker.queues import CHANGES_QUEUE, RUN_MESSAGES, is_stream_queue
from worker.store.atomic import is_out_of_memory
from worker.store.replicas import TooFewReplicas, run_confirmed
from worker.store.scripts import Script

PUSH = Script(__package__, "push", definitions=ADD_TO_INDEX)
CHANNEL_OPTIONS = ("wait_replicas", "must_confirm", "run_messages")
"""Transport options beside kombu's own."""

logger = logging.getLogger(__name__)


@contextmanager
def ignore_out_of_memory() -> Iterator[None]:
    """Go on where a full Redis refuses to store a binding, because none is needed.

    A task's messages go to their queue by its name, and broadcasts go to whoever is subscribed.
    """
    try:
        yield
    except ResponseError as error:
        if not is_out_of_memory(error):
            raise


def is_retry(message: dict[str, Any]) -> bool:
    """Whether a message takes the place of one whose records the broker holds already."""
    return bool(message.get("headers", {}).get("retries"))


@contextmanager
def raise_out_of_memory() -> Iterator[None]:
    """Raise `OutOfMemoryError` for a script that a full Redis has refused, as for a command."""
    try:
        yield
    except ResponseError as error:
        if is_out_of_memory(error):
            raise OutOfMemoryError(str(error)) from error
        raise


class Channel(UnpurgedQueues, redis.Channel):  # type: ignore[misc]
    """Reserves messages of queues that need acknowledgement; leaves the others to kombu's BRPOP."""

    QoS = QoS
    Message = Message
    codecs = {**redis.Channel.codecs, "base64": FastBase64()}
    is_delivering_reserved = False
    """Whether the message now being delivered is recorded as unacknowledged already."""
    _poll_timer: Any = None
    """The timer of the next poll, during the poll interval."""
    unanswered_poll: str | None = None
    """When the poll was sent whose answer has not been read (Unix seconds); None where it has been."""
    _empty_polls = 0
    """In a row."""
    _waiter: Waiter | None = None
    # kombu makes the channels, with nothing but their transport: a test gives one other clocks.
    clock: Callable[[], float] = staticmethod(time.time)
    monotonic: Callable[[], float] = staticmethod(time.monotonic)
    sleep: Callable[[float], None] = staticmethod(time.sleep)
    receivers = 0
    """Connections that the last broadcast reached."""
    _command_client: Client | None = None
    run_messages = RUN_MESSAGES
    """Messages of changes that are reserved together at most; a transport option."""
    wait_replicas = 0
    """Replicas that are waited for after a message was sent; a transport option."""
    must_confirm = False
    """Whether a message that too few replicas have confirmed is an error; a transport option."""
    from_transport_options = (*redis.Channel.from_transport_options, *CHANNEL_OPTIONS)
    _collected: list[tuple[str, str]] | None = None
    """Messages that are collected instead of sent: each with the list that it is for."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._rotation = Rotation(self.monotonic)
        self._unacknowledged_queues: set[str] = set()
        """Queues that are consumed without acknowledgement."""
        self._sent_poll: Poll | None = None
        """The poll whose reply is outstanding."""
        super().__init__(*args, **kwargs)
        # The transport's options are there now.
        unacked = (self.unacked_index_key, self.unacked_key)
        self._commands = PollCommands(self._lists_of, unacked, self.run_messages)

    @property
    def active_queues(self) -> Collection[str]:
        """The queues that are consumed from. kombu computes the list at each poll."""
        return self._rotation.queues

    def _update_queue_cycle(self) -> None:
        """Do nothing: the rotation takes the place of kombu's cycle."""

    def close(self) -> None:
        """Close. A server that does not answer is waited for once, by one of the connection's channels."""
        if self._waiter is not None:
            self._waiter.close()
        try:
            super().close()
        except self.connection_errors:
            self.connection.cycle.mark_lost()
            super().close()

    def mark_lost(self) -> None:
        """Have `close` ask nothing more of the server: unacknowledged messages return by themselves."""
        self._in_poll = None
        self.auto_delete_queues.clear()
        self.do_restore = False

    def limit_deliveries(self, limit: Callable[[str], DeliveryLimit]) -> None:
        """Reserve the deliveries of a stream in runs. `limit` looks up how much one of its queue may hold."""
        self._commands.delivery_limit = limit

    def _lists_of(self, queue: str) -> list[str]:
        return [self._q_for_pri(queue, step) for step in self._priorities(queue)]

    def _priorities(self, queue: str) -> list[int]:
        # Only producer tasks send to a stream's queue, and they set no priority.
        steps: list[int] = self.priority_steps
        return steps[:1] if is_stream_queue(queue) else steps

    def basic_consume(self, queue: str, no_ack: bool = False, *args: Any, **kwargs: Any) -> Any:
        tag = super().basic_consume(queue, no_ack, *args, **kwargs)
        if queue not in self.active_fanout_queues:
            if no_ack:
                self._unacknowledged_queues.add(queue)
            self._commands.add(queue)
            self._rotation.add(queue)
            self.poll_at_once()
        return tag

    def _basic_cancel(self, consumer_tag: str) -> None:
        queue = self._tag_to_queue.get(consumer_tag)
        super()._basic_cancel(consumer_tag)
        self._unacknowledged_queues.discard(queue)
        self._rotation.remove(queue)
        self._commands.remove(queue)

    def delay(self, message: virtual.Message, until: float) -> bool:
        """Delay a message of this channel until a time (Unix seconds). Always True: the broker has it.

        `worker.broker.rabbitmq.channel.Channel.delay` may return False.
        """
        self.qos.delay(message.delivery_tag, until)
        return True

    def _put(self, queue: str, message: dict[str, Any], **kwargs: Any) -> None:
        """Send a message. A full Redis accepts only retries, whose records it already holds."""
        is_stream = is_stream_queue(queue)
        if self._collected is not None:
            key = self._q_for_pri(queue, self._get_message_priority(message, reverse=False))
            self._collected.append((key, dumps(message)))
        elif self.wait_replicas and (is_stream or queue == CHANGES_QUEUE):
            self._push(queue, message, self.wait_replicas)
        elif kwargs.get("_publish_batch") is None and (is_stream or is_retry(message)):
            self._push(queue, message)
        else:
            super()._put(queue, message, **kwargs)

    def _push(self, queue: str, message: dict[str, Any], replicas: int = 0) -> None:
        """Push a message, and wait until so many replicas have it.

        If too few confirm it, a worker goes on: the message takes the place of one that is not yet
        acknowledged, and a replica that lacks the one lacks the end of the other, too.
        """
        key = self._q_for_pri(queue, self._get_message_priority(message, reverse=False))
        headers = message.get("headers") or {}
        mark, seconds = headers.get(MARK_HEADER) or (key, 0)
        sent = {name: value for name, value in headers.items() if name != MARK_HEADER}
        text = dumps({**message, "headers": sent})
        args = [text, int(is_retry(message)), int(is_stream_queue(queue)), seconds]
        push = partial(PUSH, keys=[key, *INDEX_KEYS, mark], args=args)
        with raise_out_of_memory(), self.conn_or_acquire() as client:
            try:
                run_confirmed(client, replicas, push)
            except TooFewReplicas as error:
                if self.must_confirm:
                    raise
                logger.warning("%s: a message waits in one place only", error)

    def _get_client(self) -> type[Client]:
        return Client

    def _create_client(self, asynchronous: bool = False) -> Client:
        """A client; the same one for all commands beside the poll. kombu makes one for each command."""
        if asynchronous:
            client: Client = super()._create_client(asynchronous=True)
            return client
        if self._command_client is None or self._command_client.connection_pool is not self.pool:
            self._command_client = super()._create_client()
        return self._command_client

    def _put_fanout(self, exchange: str, message: dict[str, Any], routing_key: str, **kwargs: Any) -> None:
        """Broadcast a message, and note how many connections it reached."""
        if kwargs.get("_publish_batch") is not None:
            super()._put_fanout(exchange, message, routing_key, **kwargs)
            return
        payload = dumps(message)
        topics = self._get_publish_topics(exchange, routing_key)
        with self.conn_or_acquire() as client:
            self.receivers = sum(client.publish(topic, payload) for topic in topics)

    def _connparams(self, *args: Any, **kwargs: Any) -> Any:
        # Requests that were running when the connection broke acknowledge over it, and kombu's
        # AttributeError would end the worker. The message comes back, and its idempotency record says that
        # it is completed.
        if getattr(self.connection, "client", None) is None:
            raise ConnectionError("the channel's connection is closed")
        return super()._connparams(*args, **kwargs)

    def _queue_bind(self, *args: Any) -> None:
        with ignore_out_of_memory():
            super()._queue_bind(*args)

    def _refresh_bindings(self, *args: Any) -> None:
        with ignore_out_of_memory():
            super()._refresh_bindings(*args)

    @contextmanager
    def collecting(self) -> Iterator[list[tuple[str, str]]]:
        """Collect what is sent over this channel, instead of sending it: the list, and the message for it."""
        self._collected = []
        try:
            yield self._collected
        finally:
            self._collected = None

    def requeue_target(self, record: str, tag: str, alone: bool = False) -> tuple[str, str]:
        """The list that a recorded message belongs in, and the message as it will be there.

        With `alone`, no run will hold it.
        """
        text, _, routing_key = record[1:-1].rsplit(",", 2)
        queue = loads(routing_key)
        message = parse(text, tag, queue)
        try:
            message.setdefault("headers", {})["redelivered"] = True
            message["properties"]["delivery_info"]["redelivered"] = True
            priority = self._get_message_priority(message, reverse=False)
        except Exception:
            return queue, _mark(wrap_malformed(text, tag, queue), alone)
        return self._q_for_pri(queue, priority), _mark(message, alone)

    def _brpop_start(self, timeout: float | None = None) -> None:
        # Replies to `inspect` and the like are consumed without acknowledgement and must not be recorded.
        if self._unacknowledged_queues:
            self._sent_poll = None
            self._queue_cycle.update(self._rotation.queues)
            super()._brpop_start(timeout)
        elif self._rotation.queues and self._poll_timer is None:
            self._sent_poll = self._rotation.next_poll()
            connection = self._in_poll = self.client.connection
            self._brpop_sent_at = self.monotonic()
            self.unanswered_poll = f"{self.clock():.6f}"
            connection.send_packed_command([self._commands.encode(self._sent_poll, self.unanswered_poll)])

    def _brpop_read(self, **options: Any) -> bool:
        if self._sent_poll is None:
            return bool(super()._brpop_read(**options))
        try:
            answer = self._read_answer(self._sent_poll)
            self.unanswered_poll = None
        finally:
            self._in_poll = None
            self._flush_brpop_reauth()
        self._rotation.learn(answer)
        if answer.reserved is None:
            if not self._rotation.has_stream_candidates:
                self._await_poll_interval()
            raise redis.Empty
        self._empty_polls = 0
        if self._waiter is not None:
            self._waiter.found_message()
        queue, message, tags, _, deliveries = answer.reserved
        if message:
            payload = leave_body(parse(message, tags[0], queue), tags[0])
        else:
            payload = make_delivery_run(deliveries, queue) if deliveries else make_run(tags, queue)
            self.qos.add_run(payload["properties"]["delivery_tag"], tags)
        # The text of a large message must not be held while the message is handled.
        del answer, message
        self._deliver_reserved(payload, queue)
        return True

    def _await_poll_interval(self) -> None:
        """Poll again after the interval: by a timer, or by sleeping where no event loop runs."""
        hub = get_event_loop()
        if hub is None:
            self.sleep(POLL_INTERVAL_SECONDS)
            return
        is_waiting = self._wait_for_changes(hub)
        interval = WAITING_POLL_INTERVAL_SECONDS if is_waiting else POLL_INTERVAL_SECONDS
        self._poll_timer = hub.call_later(interval, self._poll_again)

    def _wait_for_changes(self, hub: Hub) -> bool:
        """Have the server tell an idle worker of the next message of changes. False: it will not."""
        self._empty_polls += 1
        if self._empty_polls < POLLS_BEFORE_WAIT or CHANGES_QUEUE not in self._rotation.queues:
            return False
        if self._waiter is None:
            self._waiter = Waiter(self.pool, hub, CHANGES_QUEUE, self.poll_at_once, monotonic=self.monotonic)
        self._waiter.begin()
        return self._waiter.is_waiting

    def poll_at_once(self) -> None:
        """End the poll interval: kombu polls before its loop waits for anything again."""
        if self._poll_timer is not None:
            self._poll_timer.cancel()
            self._poll_timer = None

    def _poll_again(self) -> None:
        self._poll_timer = None
        # kombu polls whenever its loop runs, and nothing else may have it run.
        if not (self.closed or self._in_poll) and self.qos.can_consume():
            self._brpop_start()

    def _read_answer(self, poll: Poll) -> Answer:
        connection = self.client.connection
        try:
            return self._commands.read(poll, self.client.parse_response(connection, "EVAL"))
        except NoScriptError:
            self._commands.forget_script()
            raise redis.Empty from None
        except Exception:
            # The next poll must not read the reply to this one.
            connection.disconnect()
            raise

    def _deliver_reserved(self, message: Any, queue: str) -> None:
        self.is_delivering_reserved = True
        try:
            self.connection._deliver(message, queue)
        finally:
            self.is_delivering_reserved = False


def _mark(message: dict[str, Any], alone: bool) -> str:
    """The text of a message; its first member says where no run may hold it."""
    text: str = dumps({ALONE: True, **message} if alone else message)
    return text
