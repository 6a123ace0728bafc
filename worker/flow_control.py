"""Which delivery messages may go to the pool now. The others wait in the broker.

A message that is taken is admitted, or it goes back and its stream's queue is held for as
long as there is no point in asking again. So neither a closed gate, nor a quota that is used
up, nor a rate limit fills the worker with messages that others then cannot have.
"""

import logging
import time
from collections import Counter, defaultdict
from collections.abc import Callable
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from celery.worker.state import requests
from kombu.message import Message
from redis.exceptions import OutOfMemoryError, RedisError

from worker.firehose.batching import records_in
from worker.queues import is_stream_queue, stream_of
from worker.requests import DiscreetRequest
from worker.state import State
from worker.state.admission import Answer, Cost

if TYPE_CHECKING:
    from worker.consumer import Consumer

SHORT = 0.01
"""Seconds for which no queue is held: taking a message takes as long."""
EARLY = 0.002
"""Seconds by which a timer may end too early. The queue would be held for ever."""
CLOSED = 1.0
"""Seconds for which a closed stream's queue is held at most: its gate may open at any moment."""
SHARED_FROM = 4
"""Pool processes from which on a stream leaves a quarter of them to the others. A stream that does
not answer would otherwise have all of them wait."""

logger = logging.getLogger(__name__)


class FlowControl:
    """The door of one worker's pool."""

    def __init__(self, consumer: "Consumer") -> None:
        self._consumer = consumer
        self._in_pool: defaultdict[str, set[str]] = defaultdict(set)
        """By queue, the IDs of its messages that the pool has."""
        self._held_until: dict[str, float] = {}
        """By queue, in the clock's seconds."""
        self._in_line: Counter[str] = Counter()
        """By task, how many queues are held because of its rate limit."""

    def admits(self, message: Message) -> bool:
        """Whether the message may go to the pool. If not, it is in the broker again."""
        if self._parks(message):
            return False
        queue = (message.delivery_info or {}).get("routing_key") or ""
        return not is_stream_queue(queue) or (
            self._passes_rate_limit(queue, message) and self._passes_gate_and_quota(queue, message)
        )

    def enter(self, request: DiscreetRequest, run: Callable[[DiscreetRequest], None]) -> None:
        """Hand a request to the pool. A stream that has its share of the pool waits for one to leave."""
        queue = (request.delivery_info or {}).get("routing_key") or ""
        if is_stream_queue(queue):
            request.on_end = self._leave
            self._in_pool[queue].add(request.id)
            if self._is_full(queue):
                self._consumer.stream_queues.hold(queue)
        run(request)

    def reconnected(self) -> None:
        """The broker was lost: Celery has dropped, without a word, what no pool process had begun."""
        for queue, known in list(self._in_pool.items()):
            self._remove(queue, known - requests.keys())

    def _leave(self, request: DiscreetRequest) -> None:
        queue = request.delivery_info["routing_key"]
        was_full = self._is_full(queue)
        self._remove(queue, {request.id})
        if was_full:
            self._release(queue)

    def _remove(self, queue: str, ids: set[str]) -> None:
        self._in_pool[queue] -= ids
        if not self._in_pool[queue]:
            del self._in_pool[queue]

    def _is_full(self, queue: str) -> bool:
        processes: int = self._consumer.pool.num_processes
        share = processes - processes // SHARED_FROM
        return share < processes and len(self._in_pool.get(queue, ())) >= share

    def _parks(self, message: Message) -> bool:
        """A message whose time has not come comes back when it has, where the broker can do that."""
        eta = message.headers.get("eta")
        if not eta:
            return False
        until = _seconds(eta)
        if until - time.time() > SHORT:
            park = getattr(message.channel.qos, "park", None)
            if park is None:
                return False
            try:
                park(message.delivery_tag, until)
            except OutOfMemoryError:
                return False
            return True
        # Celery would wait for it, however long ago it was.
        message.headers["eta"] = None
        return False

    def _passes_rate_limit(self, queue: str, message: Message) -> bool:
        """The task's own rate limit. Celery would have what is over it wait among what the worker holds."""
        task = message.headers.get("task")
        bucket = None if self._consumer.disable_rate_limits else self._consumer.task_buckets[task]
        if bucket is None or (wait := bucket.expected_time(1)) <= SHORT:
            return True
        self._in_line[task] += 1
        self._send_back(queue, message, wait + (self._in_line[task] - 1) / bucket.fill_rate, task)
        return False

    def _passes_gate_and_quota(self, queue: str, message: Message) -> bool:
        answer = self._ask(queue, message)
        if not answer.admitted:
            self._send_back(queue, message, min(answer.wait, CLOSED))
        elif answer.wait > SHORT:
            self._hold(queue, answer.wait)
        return answer.admitted

    def _ask(self, queue: str, message: Message) -> Answer:
        state: State = self._consumer.app.state
        stream = stream_of(queue)
        try:
            return state.admission.ask(stream, _cost(message), state.registry.snapshot().quota(stream))
        except RedisError as error:
            logger.warning("%s: cannot ask whether %s may flow", type(error).__name__, queue)
            return Answer(admitted=False, wait=CLOSED)

    def _send_back(self, queue: str, message: Message, seconds: float, task: str | None = None) -> None:
        self._hold(queue, seconds, task)
        message.requeue()

    def _hold(self, queue: str, seconds: float, task: str | None = None) -> None:
        until = time.monotonic() + seconds
        self._held_until[queue] = max(until, self._held_until.get(queue, until))
        self._consumer.stream_queues.hold(queue)
        self._consumer.timer.call_after(seconds, self._end_hold, (queue, task))

    def _end_hold(self, queue: str, task: str | None) -> None:
        if task is not None:
            self._in_line[task] -= 1
        self._release(queue)

    def _release(self, queue: str) -> None:
        """Consume the queue again, unless there is another reason against it."""
        if self._held_until.get(queue, 0) - time.monotonic() > EARLY:
            return
        self._held_until.pop(queue, None)
        if not self._is_full(queue):
            self._consumer.stream_queues.release(queue)


def _seconds(eta: str) -> float:
    """A time as Celery writes it, in Unix seconds."""
    at = datetime.fromisoformat(eta)
    return (at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp()


def _cost(message: Message) -> Cost:
    """What a message's records take of their stream's quota; what is no delivery fails cheaply."""
    payload = message.payload
    kwargs = payload["kwargs"] if isinstance(payload, dict) else payload[1]
    try:
        units = kwargs["records"]
        lines = [unit if isinstance(unit, str) else "".join(unit) for unit in units]
        return Cost(records_in(units), len("".join(lines).encode()))
    except (KeyError, TypeError, ValueError):
        return Cost(1, 0)
