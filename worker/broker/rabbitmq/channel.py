"""Channels of RabbitMQ that delay messages, and lose no call on its way to a queue.

Queues of calls are taken as they are, classic or quorum: `worker.broker.rabbitmq.queues` says how they are
declared where they do not exist. Each wait for RabbitMQ is bounded: `worker.broker.rabbitmq.timeouts`.
"""

import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Any

import amqp
from kombu.message import Message

from worker.broker.purging import UnpurgedQueues
from worker.broker.rabbitmq.delay_queues import copy_message, delay_seconds
from worker.broker.rabbitmq.queues import holds_calls, queue_arguments
from worker.broker.rabbitmq.runs import RunMessage, Runs
from worker.broker.rabbitmq.timeouts import BoundedChannel
from worker.queues import CHANGES_QUEUE

NO_ROUTE = 312
"""RabbitMQ's reply code for a message that reaches no queue."""
TRANSIENT = 1
"""AMQP's delivery mode of messages that end with the broker: events and remote control."""
QUEUE_TYPE_OPTION = "queue_type"
"""The transport option with the type of the queues that are declared; None for the virtual host's default."""


class Channel(UnpurgedQueues, BoundedChannel):
    """Delays messages in the broker, loses none on its way to a queue, and reserves changes in runs."""

    # py-amqp makes the channels: a test gives one another clock.
    clock: Callable[[], float] = staticmethod(time.time)

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
        queue, seconds = message.delivery_info["routing_key"], delay_seconds(until - self.clock())
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
