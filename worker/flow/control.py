"""Which delivery messages may go to the pool now. The others wait in the broker.

A message that is taken is admitted, or it goes back and its stream's queue is held for as
long as there is no point in asking again. So neither a closed breaker, nor a quota that is used
up, nor a rate limit fills the worker with messages that others then cannot have.
"""

import logging
import random
import time
from collections import Counter, defaultdict
from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial
from math import inf, isinf
from typing import TYPE_CHECKING, Any

from celery.worker.state import requests
from kombu.message import Message
from kombu.utils.limits import TokenBucket
from redis.exceptions import RedisError

from worker.consumer.request import RedactingRequest
from worker.firehose.batching import records_in
from worker.flow.admission import BURST_SECONDS, Answer, Cost
from worker.queues import Stream, is_stream_queue, stream_of
from worker.services import Services

if TYPE_CHECKING:
    from worker.consumer.consumer import Consumer

SHORT = 0.01
"""Seconds for which no queue is held: taking a message takes as long."""
EARLY = 0.002
"""Seconds by which a timer may end too early. The queue would be held for ever."""
CLOSED = 1.0
"""Seconds for which a queue is held at most because of its stream's breaker or quota: either may be changed
at any moment."""
SHARED_FROM = 4
"""Pool processes from which on a stream leaves a quarter of them to the others, and the probes of all
streams have no more than a quarter. What does not answer would otherwise have all of them wait."""
AT_FIRST = 2
"""Processes that a stream may have at least, before any of its messages has left the pool again."""
REMEMBERED = 10.0
"""Seconds after a message has left the pool for which its stream may have as many there as then."""
NEWLY = 60.0
"""Seconds for which a stream that begins to fail has one process more to be probed in. Streams that do not
answer occupy those of the probes for half a minute each, and it should not have to wait for them."""
DOUBLINGS = 7
"""Of the time in which to ask again for a quota that others use up: then it is more than a second."""

logger = logging.getLogger(__name__)


class FlowControl:
    """The door of one worker's pool."""

    def __init__(self, consumer: "Consumer", monotonic: Callable[[], float] = time.monotonic) -> None:
        self._consumer = consumer
        self._monotonic = monotonic
        self._in_pool: defaultdict[str, set[str]] = defaultdict(set)
        """By queue, the IDs of its messages that the pool has."""
        self._allowed: dict[str, float] = {}
        """By queue, how many of them that may be, where it is more than at first. It grows while the stream
        answers, so one that does not answer is found out before it has its whole share."""
        self._left_at: dict[str, float] = {}
        """By queue that is allowed more, when a message of its last left, in the clock's seconds."""
        self._full: set[str] = set()
        """Queues that are held because their streams have as much of the pool as they may have."""
        self._probes: set[str] = set()
        """The IDs of messages that try a stream."""
        self._refusals: Counter[str] = Counter()
        """By queue, how often in a row there was nothing left of its stream's quota."""
        self._held_until: dict[str, float] = {}
        """By queue, in the clock's seconds."""
        self._in_line: defaultdict[str, set[str]] = defaultdict(set)
        """By task, the queues that are held because of its rate limit."""

    def admits(self, message: Message) -> bool:
        """Whether the message may go to the pool. If not, it is in the broker again."""
        if self._comes_later(message):
            return False
        queue = (message.delivery_info or {}).get("routing_key") or ""
        if not is_stream_queue(queue):
            return True
        bucket = self._bucket(message)
        if not (
            self._finds_room(queue, message)
            and self._passes_rate_limit(queue, message, bucket)
            and self._passes_gate_and_quota(queue, message)
        ):
            return False
        self._leave_tokens_to_others(queue, message, bucket)
        return True

    def enter(self, request: RedactingRequest, run: Callable[[RedactingRequest], None]) -> None:
        """Hand a request to the pool. A stream that has as much of it as it may waits for one to leave."""
        queue = (request.delivery_info or {}).get("routing_key") or ""
        # Celery's own tasks, which anybody can call, have requests that do not tell of their end.
        if is_stream_queue(queue) and hasattr(request, "on_end"):
            request.on_end = self._leave
            if self._monotonic() - self._left_at.get(queue, inf) > REMEMBERED:
                del self._allowed[queue], self._left_at[queue]
            self._in_pool[queue].add(request.id)
            if self._is_full(queue):
                self._hold_while_full(queue)
        run(request)

    def rate_limits_changed(self) -> None:
        """Celery has made its buckets, as the worker starts or as somebody uses the `rate_limit` command.

        Nobody waits any longer for an old limit. A message that comes for its token a little late
        finds it, and the next one's, too: a bucket of Celery's holds one, and what is over is lost.
        """
        for bucket in filter(None, self._consumer.task_buckets.values()):
            bucket.capacity = 1 + bucket.fill_rate * BURST_SECONDS
        for queue in set().union(*self._in_line.values()):
            self._held_until.pop(queue, None)
            self._release(queue)
        self._in_line.clear()

    def reconnected(self) -> None:
        """The broker was lost: Celery has dropped, without a word, what no pool process had begun."""
        for queue, known in list(self._in_pool.items()):
            self._remove(queue, known - requests.keys())

    def _leave(self, request: RedactingRequest) -> None:
        queue = request.delivery_info["routing_key"]
        if queue in self._full:
            self._allowed[queue] = self._room_for(queue) + 1
        if queue in self._allowed:
            self._left_at[queue] = self._monotonic()
        self._remove(queue, {request.id})
        # The pool may have grown or shrunk meanwhile.
        if queue in self._full and not self._is_full(queue):
            self._full.discard(queue)
            self._release(queue)

    def _remove(self, queue: str, ids: set[str]) -> None:
        self._probes -= ids
        self._in_pool[queue] -= ids
        if not self._in_pool[queue]:
            del self._in_pool[queue]

    def _is_full(self, queue: str) -> bool:
        return len(self._in_pool.get(queue, ())) >= self._room_for(queue)

    def _room_for(self, queue: str) -> float:
        """How many of a queue's messages the pool may have now."""
        processes = self._processes()
        others = processes // SHARED_FROM
        return min(self._allowed.get(queue, max(others, AT_FIRST)), processes - others) if others else inf

    def _processes(self) -> int:
        """How many the pool may have. With `--autoscale`, all that there are must be taken for it to grow."""
        processes: int = self._consumer.pool.num_processes
        autoscaler = self._consumer.controller.autoscaler
        return max(processes, autoscaler.max_concurrency) if autoscaler else processes

    def _hold_while_full(self, queue: str) -> None:
        self._full.add(queue)
        self._consumer.stream_queues.hold(queue)

    def _comes_later(self, message: Message) -> bool:
        """A message whose time has not come comes back when it has, where the broker can do that."""
        eta = message.headers.get("eta")
        if not eta:
            return False
        until = _seconds(eta)
        if until - time.time() > SHORT:
            return delay_message(message, until)
        # Celery would wait for it, however long ago it was.
        message.headers["eta"] = None
        return False

    def _finds_room(self, queue: str, message: Message) -> bool:
        """RabbitMQ sends messages ahead, before it hears that the stream has its share of the pool."""
        if not self._is_full(queue):
            return True
        self._hold_while_full(queue)
        message.requeue()
        return False

    def _bucket(self, message: Message) -> TokenBucket | None:
        """Where Celery counts the calls of the message's task; None where nothing limits them."""
        return None if self._consumer.disable_rate_limits else self._consumer.task_buckets[_task(message)]

    def _passes_rate_limit(self, queue: str, message: Message, bucket: TokenBucket | None) -> bool:
        """The task's own rate limit. Celery takes the token itself, right after this.

        It never sees a message for which there is none: it would have it wait among what the worker holds.
        """
        if bucket is None:
            return True
        wait = bucket.expected_time(1)
        if not (wait or bucket.contents):
            return True
        self._stand_in_line(queue, message, bucket, wait)
        message.requeue()
        return False

    def _leave_tokens_to_others(self, queue: str, message: Message, bucket: TokenBucket | None) -> None:
        """A stream whose message takes the last token goes to the end of the line, and asks no sooner."""
        if bucket is not None and (wait := bucket.expected_time(2)):
            self._stand_in_line(queue, message, bucket, wait)

    def _stand_in_line(self, queue: str, message: Message, bucket: TokenBucket, wait: float) -> None:
        """Hold the queue until a token is left for it; in `wait` seconds there is the first."""
        line = self._in_line[_task(message)]
        if queue in line:
            # RabbitMQ had sent this message ahead; or the broker was lost, and with it all that was held.
            self._consumer.stream_queues.hold(queue)
            return
        ahead = len(line) + len(bucket.contents)
        line.add(queue)
        self._hold(queue, wait + ahead / bucket.fill_rate, _task(message))

    def _passes_gate_and_quota(self, queue: str, message: Message) -> bool:
        answer = self._ask(queue, message)
        if answer.admitted:
            del self._refusals[queue]
            if answer.is_probe:
                self._probes.add(str(_named(message, "id")))
            if answer.wait > SHORT:
                self._hold(queue, min(answer.wait, CLOSED))
        else:
            self._hold(queue, min(answer.wait + self._patience(queue), CLOSED))
            message.requeue()
        return answer.admitted

    def _patience(self, queue: str) -> float:
        """Seconds more to wait before asking again. Whoever was admitted asks at the very moment at which
        there is some quota again; the others would all ask with it, each time and in vain."""
        self._refusals[queue] += 1
        return random.uniform(0, SHORT * 2 ** min(self._refusals[queue], DOUBLINGS))

    def _ask(self, queue: str, message: Message) -> Answer:
        try:
            return self._answer(stream_of(queue), message)
        except RedisError as error:
            logger.warning("%s: cannot ask whether %s may flow", type(error).__name__, queue)
            return Answer(admitted=False, wait=CLOSED)

    def _answer(self, stream: Stream, message: Message) -> Answer:
        services: Services = self._consumer.app.services
        quota, message_id = services.registry.snapshot().quota(stream), str(_named(message, "id"))
        ask = partial(services.admission.ask, stream, _cost(message), quota, message_id=message_id)
        may_probe = self._may_probe()
        answer = ask(may_probe=may_probe)
        if isinf(answer.wait) and not may_probe and self._may_probe_newly(stream):
            return ask(may_probe=True)
        return answer

    def _may_probe(self) -> bool:
        """Streams that do not answer are probed again and again, and each probe takes a process for long."""
        return self._probed() < self._for_probes()

    def _may_probe_newly(self, stream: Stream) -> bool:
        """Whether a stream may be probed beside them, as it has not failed for long."""
        most = min(self._for_probes() + 1, self._processes() // 2)
        return self._probed() < most and self._fails_newly(stream)

    def _probed(self) -> int:
        """Streams that are being probed in this pool."""
        return sum(not self._probes.isdisjoint(ids) for ids in self._in_pool.values())

    def _for_probes(self) -> int:
        return max(self._processes() // SHARED_FROM, 1)

    def _fails_newly(self, stream: Stream) -> bool:
        services: Services = self._consumer.app.services
        breaker = services.circuit_breakers.get(stream)
        return (
            breaker is not None
            and breaker.until is not None
            and services.clock() - _seconds(breaker.since) < NEWLY
        )

    def _hold(self, queue: str, seconds: float, task: str | None = None) -> None:
        until = self._monotonic() + seconds
        self._held_until[queue] = max(until, self._held_until.get(queue, until))
        # First of all its end: RabbitMQ answers what holds a queue, or is lost meanwhile.
        self._consumer.timer.call_after(seconds, self._end_hold, (queue, task))
        self._consumer.stream_queues.hold(queue)

    def _end_hold(self, queue: str, task: str | None) -> None:
        if task is not None:
            self._in_line[task].discard(queue)
        self._release(queue)

    def _release(self, queue: str) -> None:
        """Consume the queue again, unless there is another reason against it."""
        if self._held_until.get(queue, 0) - self._monotonic() > EARLY:
            return
        self._held_until.pop(queue, None)
        if self._is_full(queue):
            self._hold_while_full(queue)
        else:
            self._consumer.stream_queues.release(queue)


def delay_message(message: Message, until: float) -> bool:
    """Whether the message now waits in the broker until a time (Unix seconds). If not, it is as before."""
    delay = getattr(message.channel, "delay", None)
    return delay is not None and bool(delay(message, until))


def _task(message: Message) -> Any:
    return _named(message, "task")


def _named(message: Message, name: str) -> Any:
    """What a call says of itself; in Celery's older protocol, its body does."""
    return message.headers[name] if name in message.headers else message.payload[name]


def _seconds(text: str) -> float:
    """A time as Celery and the breakers write it, in Unix seconds."""
    at = datetime.fromisoformat(text)
    return (at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp()


def _cost(message: Message) -> Cost:
    """What a message's records take of their stream's quota; what is no delivery fails cheaply."""
    payload = message.payload
    kwargs = payload["kwargs"] if isinstance(payload, dict) else payload[1]
    try:
        groups = kwargs["records"]
        lines = [group if isinstance(group, str) else "".join(group) for group in groups]
        return Cost(records_in(groups), len("".join(lines).encode()))
    except (KeyError, TypeError, ValueError):
        return Cost(1, 0)
