"""Messages that are reserved on Redis, as a run's task reads and ends them: by their delivery tags.

The messages that a run makes and the end of the run's messages are one atomic step in the broker, so both are
there or neither, whatever is lost. The keys of completed messages are in the broker for the same reason.
"""

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from itertools import chain
from typing import Any

import orjson
from celery import Celery
from kombu import Producer
from redis.exceptions import RedisError, ResponseError

from worker.broker.messages import EncodedCall, encoded_call, load_envelope
from worker.broker.redis.channel import Channel
from worker.broker.redis.index import ADD_TO_INDEX, INDEX_KEYS
from worker.broker.redis.message import decode, text_of_record
from worker.broker.runs import RUN_MESSAGE_BYTES, HandOver, Obstacle, ReservedMessage, Result
from worker.errors import WrongTypeError
from worker.store.scripts import Script
from worker.store.windows import Windows

COMPLETED = "audience.completed"
"""By window of time: a set of the idempotency keys of the messages that were completed in it."""
RUN_ALONE = "audience.run-alone"
"""By window of time: a set of the idempotency keys of the messages that were run alone in it."""
UNCOUNTED = "audience.uncounted"
"""By ID of a run: what is to be counted of it in the state, JSON."""

HAND_OVER = Script(__package__, "hand_over", definitions=ADD_TO_INDEX)
KEEP_FROM_RUNS = Script(__package__, "keep_from_runs")

logger = logging.getLogger(__name__)


class Connected:
    """Reserved messages over one connection."""

    def __init__(self, producer: Producer, *, window_seconds: int) -> None:
        """`window_seconds` is a quarter of the time for which it is remembered how a message was run."""
        self.producer = producer
        self._channel: Channel = producer.channel
        self._completed = Windows(COMPLETED, window_seconds)
        self._run_alone = Windows(RUN_ALONE, window_seconds)
        self.now = 0
        """Unix seconds of the server's clock, which all workers share, when messages were last read."""

    def read(self, tags: Sequence[str]) -> Iterator[ReservedMessage]:
        """The messages that are still reserved, in their order; each is read when its turn comes."""
        with self._channel.conn_or_acquire() as client:
            (self.now, _), records = client.pipeline().time().hmget(self._channel.unacked_key, tags).execute()
        found = zip(tags, records, strict=True)
        return (_reserved(tag, text_of_record(record)) for tag, record in found if record is not None)

    def requeue(self, tags: Sequence[str], *, alone: bool = False) -> None:
        """Requeue messages, next in line and in their order; `alone`: so that no run will hold one."""
        self._channel.qos.requeue(tags, alone=alone)

    def collecting(self) -> AbstractContextManager[list[tuple[str, str]]]:
        """Collect what `producer` sends, instead of sending it: each message with the list that it is for."""
        return self._channel.collecting()

    def hand_over(self, run: HandOver) -> dict[str, Obstacle]:
        """Hand a run over, atomically; or do nothing, and name the messages that cannot be completed.

        Raises `WrongTypeError` where the key of a stream's queue holds no list, as another run would find.
        """
        lists = list(dict.fromkeys(name for name, _ in run.messages))
        positions = {name: position for position, name in enumerate(lists, start=1)}
        windows = self._completed.keys(self.now)
        pairs = [word for name, message in run.messages for word in (positions[name], message)]
        tags = list(run.completed)
        with self._channel.conn_or_acquire() as client, _raise_wrong_type():
            answer: list[Any] = HAND_OVER(
                client,
                keys=[
                    self._channel.unacked_index_key,
                    self._channel.unacked_key,
                    UNCOUNTED,
                    *INDEX_KEYS,
                    *windows,
                    *self._run_alone.keys(self.now),
                    *lists,
                ],
                args=[
                    run.run_id,
                    run.counts,
                    self._completed.keep_seconds,
                    len(windows),
                    len(run.completed),
                    len(run.repeated),
                    *tags,
                    *run.completed.values(),
                    *run.repeated,
                    *pairs,
                ],
            )
        found = iter(answer)
        return {tags[position]: Obstacle(reason) for position, reason in zip(found, found, strict=True)}

    def count(self, run_id: str, record: Callable[[], None]) -> None:
        """Record the counters of a run. If that fails, a worker does it later: the broker keeps them."""
        try:
            record()
            self.forget_counted(run_id)
        except RedisError as error:
            logger.warning("%s: the counters of a run are recorded later", type(error).__name__)

    def end(self, result: Result, *, left: Sequence[str] = (), alone: Sequence[str] = ()) -> Result:
        """Requeue what is left, and what is to be run alone. Returns the result."""
        self.requeue(left)
        self.requeue(alone, alone=True)
        return result

    def keep_from_runs(self, key: bytes) -> bool:
        """Have no run complete the message with this idempotency key. False: a run has completed it."""
        with self._channel.conn_or_acquire() as client:
            self.now, _ = client.time()
            current, *_ = self._run_alone.keys(self.now)
            keys = [current, *self._completed.keys(self.now)]
            return bool(KEEP_FROM_RUNS(client, keys=keys, args=[key, self._run_alone.keep_seconds]))

    def uncounted(self) -> dict[str, str]:
        """By ID, what is to be counted of the runs that were handed over and not counted yet."""
        with self._channel.conn_or_acquire() as client:
            found = client.hgetall(UNCOUNTED)
            return {decode(run_id): decode(counts) for run_id, counts in found.items()}

    def forget_counted(self, run_id: str) -> None:
        """Forget what was to be counted of a run."""
        with self._channel.conn_or_acquire() as client:
            client.hdel(UNCOUNTED, run_id)


class Deliveries:
    """The messages of a run of deliveries. Raises `RedisError` and `OperationalError`.

    Each step takes a connection of the pool and returns it. A retry needs one, too: threads that kept theirs
    during their calls of Firehose could wait for one another's for ever.
    """

    def __init__(self, app: Celery) -> None:
        self._app = app

    def read(self, tags: Sequence[str]) -> dict[str, bytes]:
        """By delivery tag, the messages that are still reserved, as JSON text."""
        with self._channel() as channel:
            return _reserved_texts(channel, tags)

    def requeue(self, tags: Iterable[str], *, alone: bool = False) -> None:
        """Requeue messages, next in line and in their order; `alone`: so that no run will hold one."""
        with self._channel() as channel:
            channel.qos.requeue(list(tags), alone=alone)

    def end(self, tags: Sequence[str]) -> None:
        """End messages that are done with: delivered, or handed over to other messages."""
        if tags:
            with self._channel() as channel:
                channel.qos.end(tags)

    @contextmanager
    def _channel(self) -> Iterator[Channel]:
        with self._app.producer_or_acquire() as producer:
            yield producer.channel


def find_deliveries(app: Celery) -> Deliveries | None:
    """The reserved messages, as a run of deliveries ends them; None where the broker is not Redis."""
    with app.producer_or_acquire() as producer:
        is_redis = isinstance(producer.channel, Channel)
    return Deliveries(app) if is_redis else None


def reserved_ids(channel: Channel, calls: Sequence[Sequence[str]]) -> list[str]:
    """The IDs of those messages of a run of deliveries that are still reserved. Raises `RedisError`.

    `calls` are their delivery tags, by call of Firehose.
    """
    found = map(_call, _reserved_texts(channel, [*chain.from_iterable(calls)]).values())
    return [str(call.fields.get("id")) for call in found if call]


def _reserved_texts(channel: Channel, tags: Sequence[str]) -> dict[str, bytes]:
    with channel.conn_or_acquire() as client:
        records = client.hmget(channel.unacked_key, tags)
    found = zip(tags, records, strict=True)
    return {tag: text_of_record(record) for tag, record in found if record is not None}


def _call(text: bytes) -> EncodedCall | None:
    try:
        return encoded_call(load_envelope(text))
    except orjson.JSONDecodeError:
        return None


@contextmanager
def _raise_wrong_type() -> Iterator[None]:
    try:
        yield
    except ResponseError as error:
        if "WRONGTYPE" in str(error):
            raise WrongTypeError("a key of the broker is of another type than its name says") from error
        raise


def _reserved(tag: str, text: bytes) -> ReservedMessage:
    try:
        envelope = load_envelope(text)
    except orjson.JSONDecodeError:
        return ReservedMessage(tag, None)
    call = encoded_call(envelope, max_bytes=RUN_MESSAGE_BYTES)
    return ReservedMessage(tag, call, call and envelope.get("sequence"))
