"""A worker in the test's own process: real messages, real Celery tracing, no waiting.

Messages live in kombu's in-memory broker. Each is run as a worker's pool would run it,
and acknowledged, rejected or put back as its outcome says. Countdowns are not waited for.
"""

import json
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import amqp
from billiard.einfo import ExceptionInfo
from celery.concurrency.solo import TaskPool
from celery.exceptions import WorkerLostError
from kombu import Queue
from kombu.transport import memory, virtual
from kombu.utils.imports import symbol_by_name
from waiting import eventually

from worker.broker.redis.delivery_runs import NO_RUN, ReservedDelivery, make_delivery_run
from worker.broker.redis.runs import ALONE
from worker.celery import AudienceFirehose
from worker.celery import app as real_app
from worker.consumer.request import RedactingRequest
from worker.queues import CHANGES_QUEUE, is_stream_queue

RETURN_SECONDS = 0.2
"""In which RabbitMQ has put a message back that was returned."""
POLL_SECONDS = 0.02
MANY = 1000
"""Messages after which a queue must be empty; a loop does not end otherwise."""


@dataclass
class LittleWorker:
    """Runs what waits in the broker's queues."""

    app: AudienceFirehose

    def __post_init__(self) -> None:
        self.pool = TaskPool(1, app=self.app)

    def send(self, task: str, kwargs: Any, queue: str = CHANGES_QUEUE, **options: Any) -> None:
        """Enqueue a call."""
        self.app.send_task(task, kwargs=kwargs, queue=queue, **options)

    def waiting(self, queue: str) -> list[Any]:
        """Read the messages of a queue without removing them."""
        with self.app.connection_for_read() as connection:
            channel = connection.default_channel
            messages = []
            while (message := channel.basic_get(queue)) is not None:
                messages.append(message)
            for message in reversed(messages):
                message.requeue()
            return messages

    def calls(self, queue: str) -> list[dict[str, Any]]:
        """The named arguments of the calls that wait in a queue."""
        return [message.payload[1] for message in self.waiting(queue)]

    def run_one(self, queue: str) -> bool:
        """Run the next message of a queue. False where there is none."""
        with self.app.connection_for_read() as connection:
            message = connection.default_channel.basic_get(queue)
            if message is None:
                return False
            self._request(message).execute_using_pool(self.pool)
            return True

    def run(self, queue: str) -> int:
        """Run messages of a queue until none is left; how many that were."""
        for count in range(MANY):
            if not self.run_one(queue):
                return count
        raise AssertionError(f"{queue} does not come to an end")

    def die_over_one(self, queue: str) -> None:
        """A pool process takes the next message of a queue, and dies."""
        with self.app.connection_for_read() as connection:
            request = self._request(connection.default_channel.basic_get(queue))
            try:
                raise WorkerLostError("killed")
            except WorkerLostError:
                request.on_failure(ExceptionInfo())

    def _request(self, message: Any) -> RedactingRequest:
        task = self.app.tasks[message.headers["task"]]
        request: RedactingRequest = symbol_by_name(task.Request)(
            message,
            on_ack=lambda *_: message.ack(),
            on_reject=lambda _, __, requeue: message.reject(requeue=requeue),
            app=self.app,
            hostname="little-worker",
            task=task,
            body=message.body,
            headers=message.headers,
            decoded=False,
        )
        return request


class RunWorker(LittleWorker):
    """Over a real Redis, whose messages are reserved in runs as a worker's transport does."""

    delivery_limit = NO_RUN
    """Of each stream's queue."""

    def waiting(self, queue: str) -> list[Any]:
        with self.app.connection_for_read() as connection:
            channel = connection.default_channel
            texts = channel.client.lrange(queue, 0, -1)
            return [channel.Message(json.loads(text), channel) for text in reversed(texts)]

    def run_one(self, queue: str) -> bool:
        with self._reserved(queue) as message:
            if message is not None:
                self._request(message).execute_using_pool(self.pool)
            return message is not None

    def die_over_one(self, queue: str, begin: Callable[[str], object] = lambda message_id: None) -> None:
        """A pool process takes the next message of a queue, begins to run it, and dies."""
        with self._reserved(queue) as message:
            begin(message.headers["id"])
            try:
                raise WorkerLostError("killed")
            except WorkerLostError:
                self._request(message).on_failure(ExceptionInfo())

    @contextmanager
    def _reserved(self, queue: str) -> Iterator[Any]:
        """The message that the next poll of the queue reserves; None if nothing waits."""
        got: list[Any] = []
        with self.app.connection_for_read() as connection:
            if not connection.default_channel.queue_declare(queue).message_count:
                yield None
                return
            connection.default_channel.limit_deliveries(lambda queue: self.delivery_limit)
            with connection.Consumer([Queue(queue)], on_message=got.append):
                while not got:
                    connection.drain_events(timeout=5)
            yield got[0]


class DeliveryRunWorker(RunWorker):
    """Runs the first attempt of each delivery as a run of one message."""

    @contextmanager
    def _reserved(self, queue: str) -> Iterator[Any]:
        with super()._reserved(queue) as message:
            tag = message.delivery_tag if message is not None else None
            if message is None or not is_stream_queue(queue) or not self._is_first_attempt(message):
                yield message
                return
            qos = message.channel.qos
            payload = make_delivery_run([ReservedDelivery(tag, 1, 1, 1)], queue)
            run = message.channel.Message(payload, message.channel)
            qos.add_run(run.delivery_tag, [tag])
            virtual.QoS.ack(qos, tag)
            virtual.QoS.append(qos, run, run.delivery_tag)
            yield run

    @staticmethod
    def _is_first_attempt(message: Any) -> bool:
        text = message.channel.client.hget(message.channel.unacked_key, message.delivery_tag)
        return ALONE.encode() not in text[:20] and not message.headers.get("retries")


class RabbitMQWorker(LittleWorker):
    """Over a real RabbitMQ. Its connection outlives a message: it keeps what is to be run alone."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self._connection = self.app.connection_for_read()
        self._channel = self._connection.default_channel
        self._channel.basic_qos(0, MANY, False)
        self._got: deque[Any] = deque()
        self._consumers: dict[str, Any] = {}
        self._queues = {CHANGES_QUEUE}

    def close(self) -> None:
        """Delete the queues that were used, and those of these streams."""
        streams = self.app.services.registry.snapshot().streams
        for queue in self._queues | {stream.queue for stream in streams}:
            self._channel.queue_delete(queue)
        self._connection.collect()

    def declare(self, queue: str, arguments: dict[str, Any]) -> None:
        """Declare a queue as somebody else does."""
        with self._connection.channel() as channel:
            amqp.Channel.queue_declare(channel, queue, durable=True, auto_delete=False, arguments=arguments)

    def delete(self, queue: str) -> None:
        """Delete a queue."""
        self._channel.queue_delete(queue)

    def waiting(self, queue: str) -> list[Any]:
        self._cancel(queue)
        messages = []
        while (message := self._channel.basic_get(queue) if self._length(queue) else None) is not None:
            messages.append(self._channel.message_to_python(message))
        for message in messages:
            message.requeue()
        # RabbitMQ counts them one by one. What runs next takes all that are counted.
        eventually(lambda: self._length_now(queue) >= len(messages))
        return messages

    def run_one(self, queue: str) -> bool:
        message = self._next(queue)
        if message is not None:
            self._request(message).execute_using_pool(self.pool)
        return message is not None

    def die_over_one(self, queue: str) -> None:
        try:
            raise WorkerLostError("killed")
        except WorkerLostError:
            self._request(self._next(queue)).on_failure(ExceptionInfo())

    def _next(self, queue: str) -> Any:
        """The next message that the worker reserves; None where none waits, here or in the queue."""
        self._drain(timeout=0)
        if not self._got:
            self._cancel(queue)
            messages = self._length(queue)
            if not messages:
                return None
            queues = [Queue(queue)]
            consumer = self._connection.Consumer(queues, on_message=self._got.append, auto_declare=False)
            self._consumers[queue] = consumer
            consumer.consume()
            if queue == CHANGES_QUEUE:
                self._let_arrive(min(messages, MANY))
            while not self._got:
                self._drain(timeout=10)
        return self._got.popleft()

    def _let_arrive(self, messages: int) -> None:
        """A run takes what has arrived. Have all that waits arrive before the first one."""
        runs = self._connection.connection.runs
        runs.most_in_pool = 0
        while runs.messages < messages:
            self._drain(timeout=10)
        runs.most_in_pool = MANY

    def _drain(self, timeout: float) -> None:
        with suppress(TimeoutError):
            self._connection.drain_events(timeout=timeout)

    def _cancel(self, queue: str) -> None:
        """Consume no more: RabbitMQ answers behind all that it has sent, and has what was returned."""
        if (consumer := self._consumers.pop(queue, None)) is not None:
            consumer.cancel()
            while self._got:
                self._got.popleft().requeue()

    def _length(self, queue: str) -> int:
        """The messages of a queue. Those that were returned to it are counted a moment later."""
        self._queues.add(queue)
        deadline = time.monotonic() + RETURN_SECONDS
        while not (messages := self._length_now(queue)) and time.monotonic() < deadline:
            time.sleep(POLL_SECONDS)
        return messages

    def _length_now(self, queue: str) -> int:
        try:
            return int(self._channel.queue_declare(queue, passive=True).message_count)
        except self._connection.channel_errors:
            return 0


def forget_all_messages() -> None:
    """Empty the in-memory broker, which all of a process shares."""
    for queue in memory.Channel.queues.values():
        queue.queue.clear()


def forget_producers() -> None:
    """Connections that the application keeps lead to the broker it had when it made them."""
    real_app._pool = None
    real_app.amqp._producer_pool = None
