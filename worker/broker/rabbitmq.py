"""RabbitMQ as a broker that delays messages, and loses no call on its way to a queue.

Queues of calls are taken as they are, classic or quorum: `worker.broker.rabbitmq_queues` says how they are
declared where they do not exist. Each wait for RabbitMQ is bounded: `worker.broker.rabbitmq_timeouts`.

Celery keeps a message whose time has not come in the worker, unacknowledged, and fetches one more in its
place. Here the worker publishes a copy into a delay queue and acknowledges the message once RabbitMQ has
confirmed the copy: at each moment the message is in one of the two queues, or in both.

There is a delay queue for each power of two in seconds, whatever the number of streams. A message reaches it
through a fanout exchange, with the name of its own queue as the routing key; when its seconds are over,
RabbitMQ dead-letters it to just that queue. If its time has not come yet, it is delayed again.

Delay queues are quorum queues, because only those dead-letter at least once: a classic queue removes a
message before the next queue has it.
"""

import logging
import math
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from functools import cached_property
from typing import Any

import amqp
from celery import Celery
from kombu import Connection as Client
from kombu.compression import compress
from kombu.message import Message
from kombu.transport import pyamqp

from worker.broker.purging import UnpurgedQueues
from worker.broker.rabbitmq_publishing import Publications
from worker.broker.rabbitmq_queues import holds_calls, queue_arguments
from worker.broker.rabbitmq_runs import RunMessage, Runs, RunsConnection
from worker.broker.rabbitmq_timeouts import BoundedChannel
from worker.queues import CHANGES_QUEUE, RUN_MESSAGES, delay_queue
from worker.upstream import register_transport

MAX_DELAY_SECONDS = 4096
"""The longest of one delay queue."""
ANSWER_TIMEOUT_SECONDS = 5.0
"""Until RabbitMQ must have confirmed a copy. The worker's main process does nothing else meanwhile."""
TRIAL_TIMEOUT_SECONDS = 3.0
"""Until RabbitMQ must have said what is in a queue. Meanwhile, too."""
PUBLISH_ATTEMPTS = 2
"""The first may meet a connection that RabbitMQ has closed since it was last used."""
PAUSE_AFTER_FAILURE_SECONDS = 60.0
"""Without another copy, after all attempts have failed: RabbitMQ may be short of memory, and then confirms
nothing but goes on delivering."""
BROKER_HEADERS = ("x-death", "x-first-death-", "x-last-death-", "x-delivery-count", "x-acquired-count")
"""Prefixes of the headers that RabbitMQ adds to a message; they would be wrong in a copy."""
NO_ROUTE = 312
"""RabbitMQ's reply code for a message that reaches no queue."""
TRANSIENT = 1
"""AMQP's delivery mode of messages that end with the broker: events and remote control."""
QUEUE_TYPE_OPTION = "queue_type"
"""The transport option with the type of the queues that are declared; None for the virtual host's default."""

logger = logging.getLogger(__name__)


def delay_seconds(remaining: float) -> int:
    """The seconds of the longest delay queue whose delay ends within a second after the time has come."""
    whole = max(1, math.ceil(remaining))
    return min(MAX_DELAY_SECONDS, 1 << (whole.bit_length() - 1))


def copy_message(message: Message) -> amqp.Message:
    """The message as its sender published it."""
    headers = {name: value for name, value in message.headers.items() if not name.startswith(BROKER_HEADERS)}
    compression = headers.get("compression")
    body = compress(message.body, compression)[0] if compression else message.body
    return amqp.Message(body, **{**message.properties, "application_headers": headers})


class DelayQueues:
    """The delay queues, over a connection of its own.

    Publishing waits for the confirmation. On the consumer's connection, messages could arrive before it,
    and each of those might have to be delayed, too.
    """

    def __init__(self, client: Client, monotonic: Callable[[], float] = time.monotonic) -> None:
        # Nothing would send heartbeats between two messages.
        self._client = client.clone(heartbeat=0)
        self._monotonic = monotonic
        self._channel: Any = None
        self._declared: set[int] = set()
        self._cooldown_until = -math.inf

    def publish(self, copy: amqp.Message, queue: str, seconds: int) -> bool:
        """Publish a message that RabbitMQ is to move to `queue` after so many seconds.

        Returns True where RabbitMQ has confirmed it. On False it may hold the copy all the same, and nothing
        is published to it during the cooldown.
        """
        if self._monotonic() < self._cooldown_until:
            return False
        for _ in range(PUBLISH_ATTEMPTS):
            try:
                self._publish(copy, queue, seconds)
            except Exception as error:
                # Whatever it is, the worker still holds the message. A late confirmation must not be read
                # as that of the next message, so the connection is closed.
                self.close()
                failure = type(error).__name__
            else:
                return True
        logger.warning(
            "%s: RabbitMQ does not confirm delayed messages; workers hold them for the next %d s",
            failure,
            PAUSE_AFTER_FAILURE_SECONDS,
        )
        self._cooldown_until = self._monotonic() + PAUSE_AFTER_FAILURE_SECONDS
        return False

    def close(self) -> None:
        """Close the connection. The next message opens another one."""
        channel, self._channel = self._channel, None
        self._declared.clear()
        if channel is not None and channel.connection is not None:
            channel.connection.collect()

    def _publish(self, copy: amqp.Message, queue: str, seconds: int) -> None:
        if self._channel is None:
            self._channel = self._client.transport.establish_connection().channel()
        with self._channel.connection.transport.having_timeout(ANSWER_TIMEOUT_SECONDS):
            if seconds not in self._declared:
                self._declare(seconds)
            # Mandatory: where somebody has deleted the delay queue, this fails.
            self._channel.basic_publish_confirm(copy, delay_queue(seconds), queue, mandatory=True)

    def _declare(self, seconds: int) -> None:
        name = delay_queue(seconds)
        self._channel.exchange_declare(name, "fanout", durable=True, auto_delete=False)
        arguments = {
            "x-queue-type": "quorum",
            "x-message-ttl": seconds * 1000,
            "x-dead-letter-exchange": "",
            "x-dead-letter-strategy": "at-least-once",
            # RabbitMQ demands it for that. Nothing limits the queue's length.
            "x-overflow": "reject-publish",
        }
        self._channel.queue_declare(name, durable=True, auto_delete=False, arguments=arguments)
        self._channel.queue_bind(name, name)
        self._declared.add(seconds)


class Channel(UnpurgedQueues, BoundedChannel):
    """Delays messages in the broker, loses none on its way to a queue, and reserves changes in runs."""

    def basic_qos(self, prefetch_size: int, prefetch_count: int, a_global: bool, **options: Any) -> Any:
        """Limit the messages that are sent ahead; of runs, those that the pool has at a time."""
        if self.connection is not None:
            self.connection.limit_runs(prefetch_count)
        return super().basic_qos(prefetch_size, prefetch_count, a_global, **options)

    def basic_consume(
        self, queue: str = "", consumer_tag: str = "", no_ack: bool = False, **options: Any
    ) -> Any:
        """Consume a queue. Changes are consumed in runs, on a channel of their own."""
        if queue != CHANGES_QUEUE or no_ack or self.connection is None:
            return super().basic_consume(queue, consumer_tag, no_ack=no_ack, **options)
        self.connection.reserve_runs().consume(consumer_tag, options["callback"])
        return consumer_tag

    def basic_cancel(self, consumer_tag: str, **options: Any) -> Any:
        """Consume a queue no more."""
        runs = self.connection and self.connection.runs
        if runs is None or runs.consumer_tag != consumer_tag:
            return super().basic_cancel(consumer_tag, **options)
        return runs.cancel()

    def message_to_python(self, raw_message: Any) -> Any:
        """The message that Celery handles. It is acknowledged on the channel that delivered it."""
        if isinstance(raw_message, RunMessage):
            return raw_message
        return self.Message(raw_message, channel=raw_message.channel or self)

    def write(self, message: amqp.Message, queue: str) -> None:
        """Publish a message without waiting for its confirmation; it is returned where no queue is."""
        self._basic_publish(message, "", queue, mandatory=True)

    def basic_publish_confirm(
        self, message: amqp.Message, *args: Any, mandatory: bool = False, **kwargs: Any
    ) -> Any:
        """Publish a message. Raises `RecoverableConnectionError` where a task's call would reach no queue.

        RabbitMQ confirms such a message and drops it. Queues are declared once a connection, so somebody has
        deleted this one since; on the error kombu reconnects, declares it and publishes again.

        An event, or a command of remote control, is written and not waited for: deliveries go on.
        """
        is_call = "task" in (message.headers or {})
        if message.properties.get("delivery_mode") == TRANSIENT and not (is_call or mandatory):
            return super().basic_publish(message, *args, **kwargs)
        try:
            return super().basic_publish_confirm(message, *args, mandatory=mandatory or is_call, **kwargs)
        except amqp.ChannelError as error:
            if error.reply_code != NO_ROUTE:
                raise
            raise amqp.RecoverableConnectionError("no queue accepts the message") from None

    def queue_declare(self, queue: str = "", passive: bool = False, **options: Any) -> Any:
        """Declare a queue. A queue of calls that exists is taken as it is, whoever declared it.

        Raises `RecoverableConnectionError` for a queue of another connection alone: that may be a lost one of
        this process, which RabbitMQ has not given up yet.
        """
        if passive or not holds_calls(queue):
            try:
                return super().queue_declare(queue, passive=passive, **options)
            except amqp.ResourceLocked:
                raise amqp.RecoverableConnectionError("the queue is another connection's") from None
        if self.connection is None:
            raise amqp.RecoverableConnectionError("the channel's connection is closed")
        return self.connection.declarations.find_or_declare(queue)

    def find_or_declare(self, queue: str) -> Any:
        """Declare a queue of calls, unless it exists. Closes the channel's consumers where it does not."""
        with suppress(amqp.NotFound):
            return self.queue_declare(queue, passive=True)
        queue_type = self.connection.client.transport_options.get(QUEUE_TYPE_OPTION)
        version = str(self.connection.server_properties.get("version", ""))
        arguments = queue_arguments(queue, queue_type, version)
        try:
            return super().queue_declare(queue, durable=True, auto_delete=False, arguments=arguments)
        except amqp.PreconditionFailed:
            # Somebody else has declared it meanwhile, in another way.
            return self.queue_declare(queue, passive=True)

    def delay(self, message: Message, until: float) -> bool:
        """Delay a message of this channel until a time (Unix seconds).

        Returns True where the broker now holds it. On False it is unacknowledged as before.
        """
        if message.delivery_info["exchange"]:
            # Its routing key need not be the name of the queue that it came from.
            return False
        if self.connection is None:
            raise amqp.RecoverableConnectionError("the channel's connection is closed")
        queue, seconds = message.delivery_info["routing_key"], delay_seconds(until - time.time())
        if not self.connection.delay_queues.publish(copy_message(message), queue, seconds):
            return False
        message.ack()
        return True


class RunsChannel(Channel):
    """The channel of the messages that are reserved in runs."""

    def __init__(self, *args: Any, most: int, in_pool: int, **options: Any) -> None:
        super().__init__(*args, **options)
        self.runs = Runs(self, most=most, in_pool=in_pool)

    def begin(self, tag: str, prefetch: int) -> None:
        """Consume changes, of which RabbitMQ sends so many ahead."""
        BoundedChannel.basic_qos(self, 0, prefetch, False)
        BoundedChannel.basic_consume(self, CHANGES_QUEUE, tag)

    def stop(self, tag: str) -> None:
        """Consume no more."""
        BoundedChannel.basic_cancel(self, tag)

    def handle_delivery(
        self, tag: str, callback: Callable[[Any], object], frames: Iterable[tuple[int, bytes]]
    ) -> None:
        """Have py-amqp handle the frames of a delivery, and call the consumer's callback."""
        self.callbacks[tag] = callback
        for frame_type, content in frames:
            self.connection.on_inbound_frame((frame_type, self.channel_id, content))
        self.callbacks.pop(tag, None)

    def basic_ack(self, delivery_tag: int, multiple: bool = False, **options: Any) -> Any:
        """Acknowledge a message that was run alone."""
        super().basic_ack(delivery_tag, multiple, **options)
        self.runs.forget(delivery_tag)

    def basic_reject(self, delivery_tag: int, requeue: bool, **options: Any) -> Any:
        """Reject a message that was run alone."""
        super().basic_reject(delivery_tag, requeue, **options)
        self.runs.forget(delivery_tag)

    def acknowledge(self, delivery_tag: int, multiple: bool = False) -> None:
        """Acknowledge a message of a run, with all before it where `multiple`."""
        super().basic_ack(delivery_tag, multiple)

    def requeue(self, delivery_tag: int) -> None:
        """Requeue a message."""
        super().basic_reject(delivery_tag, requeue=True)


class Connection(RunsConnection):
    """A connection with these channels."""

    Channel = Channel
    prefetch_count = 1
    """The last limit of messages that Celery has set."""

    def limit_runs(self, prefetch_count: int) -> None:
        """Limit the messages that the pool has at a time; 0 stands for no limit."""
        self.prefetch_count = prefetch_count or RUN_MESSAGES
        if self.runs is not None:
            self.runs.most_in_pool = self.prefetch_count

    def reserve_runs(self) -> Runs:
        """The messages of changes that are reserved, on a channel that is made for them."""
        if self.runs is None:
            most = self.client.transport_options.get("run_messages", RUN_MESSAGES)
            channel = RunsChannel(self, most=most, in_pool=self.prefetch_count)
            channel.open()
            self.runs = channel.runs
        return self.runs

    @cached_property
    def publications(self) -> Publications:
        """The channel on which messages are published together."""
        return Publications(self.channel())

    @cached_property
    def delay_queues(self) -> DelayQueues:
        """The delay queues of the same virtual host."""
        return DelayQueues(self.client)

    @cached_property
    def declarations(self) -> Any:
        """A channel for declarations: RabbitMQ closes a channel, with its consumers, over a queue that does
        not exist or is another. py-amqp opens it again by itself."""
        return self.channel()

    def collect(self) -> None:
        super().collect()
        if "delay_queues" in self.__dict__:
            self.delay_queues.close()


class Transport(pyamqp.Transport):  # type: ignore[misc]
    """kombu's transport for RabbitMQ, with these connections."""

    Connection = Connection

    def qos_semantics_matches_spec(self, connection: Any) -> bool:
        """Always True: Celery limits the messages of each consumer, and not those of the channel, which
        quorum queues and RabbitMQ 4 refuse."""
        return True


class SSLTransport(Transport, pyamqp.SSLTransport):  # type: ignore[misc]
    """The same over TLS."""


def unserved(app: Celery, queues: Iterable[str]) -> list[str]:
    """The queues that RabbitMQ does not serve, though they are declared.

    They are asked for over a connection of their own, which RabbitMQ closes over such a queue. Raises
    connection errors where RabbitMQ is away.
    """
    client = app.connection_for_read()
    channel, found = None, []
    try:
        for queue in queues:
            channel = channel or client.channel()
            if not _is_served(channel, queue, client.connection_errors):
                found.append(queue)
                client.collect()
                channel = None
    finally:
        client.collect()
    return found


def _is_served(channel: Channel, queue: str, errors: tuple[type[Exception], ...]) -> bool:
    try:
        with channel.connection.answering_within(TRIAL_TIMEOUT_SECONDS), suppress(amqp.NotFound):
            declared = channel.queue_declare(queue, passive=True)
            if not (declared.message_count or declared.consumer_count):
                # It is empty, or nobody counts. A message that has just come is requeued with the connection.
                channel.basic_get(queue)
    except errors:
        return False
    return True


def register_rabbitmq_transport() -> None:
    """Make it this process's transport for `amqp://`, `pyamqp://` and `amqps://`."""
    register_transport(("amqp", "pyamqp"), f"{__name__}:{Transport.__name__}")
    register_transport(("amqps",), f"{__name__}:{SSLTransport.__name__}")
