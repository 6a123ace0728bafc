"""Everything a user would run, for real: Redis, workers, another app. Only Firehose is a fake."""

import json
import subprocess
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any
from uuid import uuid4

from celery import Celery
from cryptography.fernet import Fernet
from waiting import eventually
from warm_start import warm_start

from devstack import processes
from devstack.firehose import FakeFirehose
from worker.broker.client import queue_lengths, sender
from worker.config import read_settings
from worker.failures.alerts import Alert
from worker.failures.dead_letters import DeadLetter
from worker.queues import CHANGES_QUEUE, Stream
from worker.services import connect
from worker.state.idempotency import LEASES
from worker.state.registry import stream_of_connection

ACCESS_KEY_ID = "AKIASECRETIVE0001"
SECRET_ACCESS_KEY = "secretive-access-key"
RETRY_MAX = 3


@dataclass
class Audience:
    """An audience tied to a stream of its own."""

    stack: "Stack"
    id: int
    stream: Stream
    connection_id: str

    def added(self, *customers: str) -> list[dict[str, Any]]:
        """Changes: these customers have joined."""
        return [self.change("member_added", user_identities={"CustomerId": c}) for c in customers]

    def change(self, kind: str, **keys: Any) -> dict[str, Any]:
        """A change of this audience."""
        given = {
            "type": kind,
            "audience_id": self.id,
            "audience_internal_name": "LowEngagement",
            "timestamp": 1234565788,
        }
        return given | keys

    def added_user(self, **identities: str) -> dict[str, Any]:
        """A change: a user with these identities has joined."""
        return self.change("member_added", user_identities=identities)

    def received(self) -> list[bytes]:
        """The lines that arrived in the stream."""
        return self.stack.firehose.accepted(self.stream.name, self.stream.region)

    def customers(self) -> list[str]:
        """The customers whose records arrived in the stream."""
        return [json.loads(line)["UserIdentities"]["CustomerId"] for line in self.received()]

    def puts(self) -> list[int]:
        """How many records each request of this stream held."""
        with self.stack.firehose.lock:
            calls = list(self.stack.firehose.calls)
        return [
            len(call.records)
            for call in calls
            if call.stream_name == self.stream.name and call.operation.startswith("Put")
        ]

    def alerts(self) -> list[Alert]:
        """The alerts of this audience."""
        return [alert for alert in self.stack.services.alerts.all() if self.id in alert.audience_ids]

    def letters(self) -> list[DeadLetter]:
        """The dead letters of this audience's stream."""
        return [letter for letter in self.stack.services.dead_letters.all() if self.id in letter.audience_ids]

    def waiting(self) -> int:
        """How many messages wait in the stream's queue."""
        return queue_lengths(self.stack.caller, [self.stream.queue])[self.stream.queue]


@dataclass
class Stack:
    """A private Redis, a fake Firehose, an app that enqueues, and the state that an operator sees."""

    directory: Path
    redis_url: str
    firehose: FakeFirehose
    databases: tuple[int, int]
    broker_url: str | None = None
    """The URL of another broker than the Redis."""
    state_url: str | None = None
    """The URL of another state than the Redis."""
    secret_key: str = field(default_factory=lambda: Fernet.generate_key().decode(), repr=False)
    seen: list[str] = field(default_factory=list)
    """Everything that operators could have seen on a screen: events and answers of `inspect`."""

    def __post_init__(self) -> None:
        self.services = connect(read_settings(self.environment))
        self.caller = Celery("another-app", broker=self.environment["CELERY_BROKER_URL"])
        self.names = count(1)
        self.logs: list[Path] = []

    @property
    def environment(self) -> dict[str, str]:
        """The environment of a worker. Retries follow at once: the waits have tests of their own."""
        broker, memory = self.databases
        return {
            "CELERY_BROKER_URL": self.broker_url or f"{self.redis_url}/{broker}",
            "AUDIENCE_REDIS_URL": self.state_url or f"{self.redis_url}/{memory}",
            "AUDIENCE_SECRET_KEY": self.secret_key,
            "AUDIENCE_RETRY_MAX": str(RETRY_MAX),
            "AUDIENCE_RETRY_BACKOFF_MAX": "0",
            "AWS_ENDPOINT_URL_FIREHOSE": self.firehose.url,
        }

    @contextmanager
    def worker(
        self, *options: str, env: Mapping[str, str] | None = None, inside: Sequence[str] = ()
    ) -> Iterator[processes.Process]:
        """A worker that consumes, run by the command `inside`."""
        name = f"worker{len(self.logs)}"
        log = self.directory / f"{name}.log"
        self.logs.append(log)
        environment = self.environment | dict(env or {})
        start = subprocess.Popen if inside else warm_start
        started = processes.worker(log, environment, *options, name=name, inside=inside, start=start)
        with started as process:
            yield processes.wait_for_worker(process)

    def configure(self, name: str, access_key_id: str = ACCESS_KEY_ID, **settings: Any) -> None:
        """A configuration with a stored secret."""
        self.services.registry.configure(
            name=name, access_key_id=access_key_id, secret_access_key=SECRET_ACCESS_KEY, **settings
        )

    def audience(
        self,
        configuration: str = "main",
        stream: str | None = None,
        region: str = "us-east-1",
        number: int | None = None,
        **settings: Any,
    ) -> Audience:
        """A new audience, tied to a new stream, or to one that is there."""
        number = number or next(self.names)
        name = stream or f"stream-{number}"
        if stream is None:
            self.firehose.create(name, region)
        identifier = self.services.registry.connect(
            audience_id=number,
            configuration=configuration,
            delivery_stream_name=name,
            region=region,
            **settings,
        )
        connection = self.services.registry.connection(identifier)
        return Audience(self, number, stream_of_connection(connection), identifier)

    def send(self, *changes: dict[str, Any], **options: Any) -> str:
        """Enqueue changes as any app would: by the task's name, with plain Celery."""
        return self.call("audience.forward", {"changes": list(changes)}, **options)

    def call(self, task: str, kwargs: dict[str, Any], queue: str = CHANGES_QUEUE, **options: Any) -> str:
        """Enqueue any call; the ID of its message."""
        sent = self.caller.send_task(task, kwargs=kwargs, queue=queue, ignore_result=True, **options)
        return str(sent.id)

    def push_raw(self, queue: str, body: bytes, **headers: Any) -> None:
        """Push a message whose envelope is right and whose body is anything at all."""
        with self.caller.connection() as connection:
            connection.default_channel.queue_declare(queue, durable=True, auto_delete=False)
            connection.Producer().publish(
                body,
                routing_key=queue,
                content_type="application/json",
                content_encoding="utf-8",
                headers={"id": str(uuid4())} | headers,
            )

    def empty(self, queue: str) -> None:
        """Forget what waits in a queue."""
        with self.caller.connection() as connection:
            while (message := connection.default_channel.basic_get(queue)) is not None:
                connection.default_channel.basic_ack(message.delivery_tag)

    def unacknowledged(self) -> int:
        """How many messages are with workers, or were with one that is gone. RabbitMQ does not tell."""
        return 0 if self.broker_url else int(self.broker_client().hlen("unacked"))

    def broker_client(self) -> Any:
        """The broker's Redis, where it is one."""
        return self.caller.connection().default_channel.client

    def expire_what_is_in_flight(self) -> None:
        """Have leases and visibility timeouts expire now: the worker that has the messages is lost.

        RabbitMQ has the messages of a lost worker back at once.
        """
        redis = self.services.redis
        redis.delete(*redis.scan_iter(f"{LEASES}:*"))
        if not self.broker_url:
            server = self.broker_client()
            server.zadd("unacked_index", dict.fromkeys(server.zrange("unacked_index", 0, -1), 1))

    def replay(self, letter: DeadLetter) -> None:
        """Replay as `audience-firehose replay` does."""
        with sender(self.caller) as broker:
            self.services.replayer.replay(broker, letter)
        self.services.alerts.resolve([letter.id])

    def inspect(self, what: str) -> dict[str, Any]:
        """The output of `celery inspect`, kept for the search for leaks."""
        control = self.caller.control.inspect(timeout=1.0)
        answer: dict[str, Any] = getattr(control, what)() or {}
        self.seen.append(repr(answer))
        return answer

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Keep every event that the workers send, as Flower would receive it."""
        with self.caller.connection() as connection:
            receiver = self.caller.events.Receiver(connection, handlers={"*": self._watch})
            watcher = threading.Thread(target=_receive, args=(receiver,), daemon=True)
            watcher.start()
            yield
            receiver.should_stop = True
            watcher.join(5)

    def _watch(self, event: dict[str, Any]) -> None:
        self.seen.append(repr(event))
        if event["type"] == "worker-heartbeat":
            # Flower asks as often. A worker over RabbitMQ does not see that somebody listens.
            self.caller.control.enable_events()


def _receive(receiver: Any) -> None:
    while not receiver.should_stop:
        try:
            receiver.capture(limit=None, timeout=0.5, wakeup=False)
        except TimeoutError:
            continue


def until_idle(stack: Stack, is_done: Callable[[], bool]) -> None:
    """Wait until something is so, and nothing waits for a worker."""
    eventually(is_done)
    eventually(lambda: not any(stack.inspect("active").values()))
