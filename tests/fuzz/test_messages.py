"""A real worker, fed with garbage: it lives on, the garbage is dead letters, and what is valid arrives."""

import json
from base64 import b64encode
from dataclasses import dataclass
from itertools import count
from typing import Any
from uuid import uuid4

import pytest
from hostile import JSON, SCALAR, TEXT, deep, inputs
from hypothesis import Phase, given
from hypothesis import strategies as st
from stack import Stack
from waiting import eventually

from devstack import processes
from devstack.firehose import FakeFirehose
from worker.failures.alerts import DEAD_LETTERS, DEAD_MESSAGES
from worker.queues import CHANGES_QUEUE

FORWARD = "audience.forward"
NUMBERS = count()

BYTES = st.binary(max_size=200)
NO_CALL = JSON.filter(lambda found: not (isinstance(found, list) and len(found) == 3))
BODY = BYTES | NO_CALL.map(lambda content: json.dumps(content).encode())
"""A body that no task can be called with."""

TASK = st.sampled_from([FORWARD, "audience.forward_mparticle", "audience.deliver.us-east-1"])
TIME = TEXT | st.sampled_from(
    [
        "0001-01-01T00:00:00",
        "9999-12-31T23:59:59+00:00",
        "2020-01-01T00:00:00+00:00",
        "1969-12-31",
        "2020-W01",
    ]
)
ODD = SCALAR | st.lists(SCALAR, max_size=3) | st.dictionaries(TEXT, SCALAR, max_size=2)
HEADERS = st.fixed_dictionaries(
    {},
    optional={
        "id": ODD | TEXT,
        "task": ODD | TASK | TEXT,
        "eta": ODD | TIME,
        "retries": ODD | st.integers(0, 200),
        "timelimit": ODD | st.lists(ODD, min_size=2, max_size=2),
        "shadow": ODD,
        "root_id": ODD,
        "parent_id": ODD,
        "group": ODD,
        "group_index": ODD,
        "argsrepr": ODD,
        "kwargsrepr": ODD,
        "origin": ODD,
        "ignore_result": ODD,
        "replaced_task_nesting": ODD,
        "stamped_headers": ODD,
        "stamps": ODD,
        "lang": ODD,
        "redelivered": ODD,
        "expires": ODD | st.just("2001-01-01T00:00:00"),
        "compression": ODD | st.sampled_from(["application/zstd", "application/x-gzip"]),
    },
)
EMBED = st.none() | st.fixed_dictionaries(
    {}, optional=dict.fromkeys(("callbacks", "errbacks", "chain", "chord"), ODD)
)
CONTENT_TYPE = st.sampled_from(
    [
        "application/json",
        "application/x-python-serialize",
        "application/x-yaml",
        "application/data",
        "application/x-msgpack",
        "text/plain",
        "secretive/secretive",
    ]
)
ENCODING = st.sampled_from(["utf-8", "binary", "utf-16", "us-ascii", "no-such-encoding"])


@dataclass
class Sent:
    """A message that is no valid call, or perhaps one: what it says, and where it must be found."""

    body: bytes
    headers: dict[str, Any]
    content_type: str = "application/json"
    encoding: str = "utf-8"
    customer: str | None = None
    """Whom a call in it is about. It may be carried out."""

    def is_among(self, kept: set[str], arrived: set[str]) -> bool:
        """Whether it was carried out or is a dead letter."""
        # Of what the broker's own library could not read, all of the envelope is kept.
        if any(b64encode(self.body).decode() in text for text in kept):
            return True
        if self.customer:
            return self.customer in arrived or any(self.customer in text for text in kept)
        return self.body.decode(errors="backslashreplace") in kept or _call(self.body) in kept


def _call(body: bytes) -> str:
    try:
        args, kwargs, _ = json.loads(body)
    except (ValueError, TypeError):
        return "no call"
    return json.dumps([args, kwargs])


@st.composite
def a_body(draw):
    """Any body at all under the headers of a call."""
    return Sent(draw(BODY), {"id": str(uuid4()), "task": draw(TASK)})


@st.composite
def a_call_with_odd_headers(draw):
    """A valid change in a call whose headers are anybody's guess."""
    customer = f"odd-{next(NUMBERS)}."
    headers = {"id": str(uuid4()), "task": FORWARD, "retries": 0} | draw(HEADERS)
    return Sent(_forward(customer, draw(EMBED)), headers, customer=customer)


@st.composite
def a_call_of_an_odd_kind(draw):
    """A valid change in a body that says to be something else."""
    customer = f"odd-{next(NUMBERS)}."
    headers = {"id": str(uuid4()), "task": FORWARD}
    body = _forward(customer, None)
    return Sent(body, headers, draw(CONTENT_TYPE), draw(ENCODING), customer)


@st.composite
def an_older_call(draw):
    """A valid change in Celery's older protocol, or something like it."""
    customer = f"odd-{next(NUMBERS)}."
    args, kwargs, _ = json.loads(_forward(customer, None))
    call = {"id": str(uuid4()), "task": FORWARD, "args": args, "kwargs": kwargs} | draw(HEADERS)
    del_ = draw(st.sets(st.sampled_from(["args", "task", "id"])))
    call = {key: value for key, value in call.items() if key not in del_}
    headers = draw(st.just({}) | HEADERS)
    return Sent(json.dumps(call).encode(), headers, customer=customer)


def _forward(customer: str, embed: Any) -> bytes:
    change = {
        "type": "member_added",
        "audience_id": AUDIENCE,
        "audience_external_name": "Name",
        "user_identities": {"CustomerId": customer},
    }
    return json.dumps([[], {"changes": [change]}, embed]).encode()


AUDIENCE = 1
MESSAGE = a_body() | a_call_with_odd_headers() | a_call_of_an_odd_kind() | an_older_call()


@pytest.fixture(scope="module")
def broker_url(tmp_path_factory):
    with processes.redis(tmp_path_factory.mktemp("redis")) as (_, url):
        yield url


@pytest.fixture(scope="module")
def fed(tmp_path_factory, broker_url):
    """A stack with an audience 1, and its only worker."""
    with FakeFirehose() as firehose:
        stack = Stack(tmp_path_factory.mktemp("fed"), broker_url, firehose, databases=(0, 1))
        stack.configure("main")
        audience = stack.audience(number=AUDIENCE)
        with stack.worker("--concurrency", "2") as worker:
            yield Fed(stack, audience, worker)
            assert "Traceback" not in worker.output()
            assert worker.stop() == 0


@dataclass
class Fed:
    """The stack, and what has come of the messages that were sent to it."""

    stack: Stack
    audience: Any
    worker: processes.Process

    def send(self, messages: list[Sent]) -> None:
        with self.stack.caller.connection() as connection:
            connection.default_channel.queue_declare(CHANGES_QUEUE, durable=True, auto_delete=False)
            producer = connection.Producer()
            for sent in messages:
                producer.publish(
                    sent.body,
                    routing_key=CHANGES_QUEUE,
                    content_type=sent.content_type,
                    content_encoding=sent.encoding,
                    headers=sent.headers,
                )

    def kept(self) -> set[str]:
        """The content of every dead letter."""
        stored = self.stack.services.redis.hvals(DEAD_MESSAGES)
        return {_content(json.loads(text)) for text in stored}

    def is_done(self) -> bool:
        """Whether no message waits or is in flight."""
        broker = self.stack.broker_client()
        queues = (CHANGES_QUEUE, self.audience.stream.queue)
        return not broker.hlen("unacked") and not any(map(broker.llen, queues))

    def lost(self, messages: list[Sent]) -> list[Sent]:
        """Those that are nowhere."""
        kept, arrived = self.kept(), set(self.audience.customers())
        return [sent for sent in messages if not sent.is_among(kept, arrived)]


def _content(message: dict[str, Any]) -> str:
    kwargs = message["kwargs"]
    return kwargs["body"] if "body" in kwargs else json.dumps([message["args"], kwargs])


@inputs(in_full=160, each=20, phases=[Phase.generate])
@given(messages=st.lists(MESSAGE, min_size=20, max_size=20))
def test_any_message_is_run_or_dead_lettered_and_the_worker_lives(fed, messages):
    marks = [f"mark-{next(NUMBERS)}" for _ in range(5)]
    for mark in marks:
        fed.send(messages[: len(messages) // len(marks)])
        messages = messages[len(messages) // len(marks) :] + messages[: len(messages) // len(marks)]
        fed.stack.send(*fed.audience.added(mark))
    eventually(lambda: set(marks) <= set(fed.audience.customers()))
    eventually(fed.is_done)
    assert fed.lost(messages) == []
    assert fed.worker.is_running


ENVELOPES = {
    "no JSON": b"secretive",
    "no object": b"[1, 2]",
    "a number": b"5",
    "nothing": b"",
    "no UTF-8": b"\xff\xfe",
    "an empty object": b"{}",
    "no properties": b'{"body": "c2VjcmV0aXZl", "headers": {}}',
    "properties that are none": b'{"body": "", "properties": 7}',
    "no delivery tag": b'{"properties": {"delivery_info": {"routing_key": "audience.changes"}}}',
    "nesting without end": json.dumps(deep(900)).encode(),
}


@pytest.mark.parametrize("envelope", ENVELOPES.values(), ids=ENVELOPES)
def test_an_entry_that_is_no_message_of_the_broker_is_dead_lettered(fed, envelope):
    """Somebody has pushed into the queue's list past every messaging library."""
    before = fed.stack.services.redis.hlen(DEAD_LETTERS)
    fed.stack.broker_client().lpush(CHANGES_QUEUE, envelope)
    mark = f"mark-{next(NUMBERS)}"
    fed.stack.send(*fed.audience.added(mark))
    eventually(lambda: mark in fed.audience.customers())
    eventually(lambda: fed.stack.services.redis.hlen(DEAD_LETTERS) == before + 1)
