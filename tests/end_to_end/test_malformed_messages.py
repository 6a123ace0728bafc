"""A malformed message ends as a dead letter with an alert, and the worker goes on."""

import json
import zlib
from random import randbytes

import pytest
from redis import Redis
from waiting import eventually

from worker.broker.compression import MAX_DECOMPRESSED_BYTES
from worker.broker.redis.set_aside import SET_ASIDE
from worker.queues import CHANGES_QUEUE

MALFORMED = {
    "a broken body": (b'[[], {"changes": [{"user": "secretive', {"task": "audience.forward"}),
    "a body that is no text": (b"\xff\xfe\xfd secretive", {"task": "audience.forward"}),
    "a body that cannot be unpacked": (
        b"\xff\xfe\xfd secretive",
        {"task": "audience.forward", "compression": "application/zstd"},
    ),
    "a body that expands beyond all bounds": (
        zlib.compress(bytes(MAX_DECOMPRESSED_BYTES + 1), 9),
        {"task": "audience.forward", "compression": "application/x-gzip"},
    ),
    "no task call": (b'{"hello": "secretive"}', {}),
    "a task that does not exist": (b'[["secretive"], {}, {}]', {"task": "reports.daily"}),
    "a number": (b"5", {"task": "audience.forward"}),
    "two thirds of a call": (b'[[], {"changes": ["secretive"]}]', {"task": "audience.forward"}),
    "a call with a list of named arguments": (b'[[], ["secretive"], {}]', {"task": "audience.forward"}),
    "a call with an object of arguments": (b'[{"secretive": 1}, {}, {}]', {"task": "audience.forward"}),
    "an embed that is no object": (b'[[], {"changes": ["secretive"]}, 7]', {"task": "audience.forward"}),
    "named arguments that the task does not have": (
        b'[[], {"secretive": 1}, {}]',
        {"task": "audience.forward"},
    ),
    "changes that are no list": (b'[[], {"changes": "secretive"}, {}]', {"task": "audience.forward"}),
}


def letters(stack):
    return {letter.id: letter for letter in stack.services.dead_letters.all()}


def content(message):
    """Rebuild the message that was sent from its dead letter: the body as it came, or a call's arguments."""
    if "body" in message.kwargs:
        return message.kwargs["body"]
    return json.dumps([message.args, message.kwargs, {}])


@pytest.mark.parametrize(("body", "headers"), MALFORMED.values(), ids=MALFORMED)
def test_a_malformed_message_becomes_a_dead_letter_and_raises_an_alert(stack, audience, body, headers):
    before = letters(stack)
    # The alert of this message is an entry of its own, and does not repeat another test's.
    stack.services.alerts.acknowledge_all()
    stack.push_raw(CHANGES_QUEUE, body, **headers)
    (identifier,) = eventually(lambda: letters(stack).keys() - before.keys())
    kept = stack.services.dead_letters.message(letters(stack)[identifier])
    assert content(kept) == body.decode(errors="backslashreplace")
    (alert,) = [alert for alert in stack.services.alerts.all() if alert.dead_letter_id == identifier]
    assert alert.type == "Invalid Change"
    stack.send(*audience.added("secretive-after"))
    eventually(audience.received)


def test_two_unknown_tasks_with_the_same_arguments_are_two_dead_letters(stack):
    before = letters(stack)
    for task in ("reports.daily", "reports.weekly"):
        stack.push_raw(CHANGES_QUEUE, b"[[], {}, {}]", task=task, id="one")
    eventually(lambda: len(letters(stack).keys() - before.keys()) == 2)


def test_a_batch_for_a_task_that_does_not_exist_here_is_kept_with_its_records(stack, audience):
    before, body = letters(stack), json.dumps([[], {"records": ["secretive" * 1000]}, {}])
    cost = {"firehose_records": 1, "firehose_bytes": 9}
    stack.push_raw(audience.stream.queue, body.encode(), task="audience.deliver.mars-1", **cost)
    (identifier,) = eventually(lambda: letters(stack).keys() - before.keys())
    kept = stack.services.dead_letters.message(letters(stack)[identifier])
    assert kept.kwargs["body"] == body


@pytest.mark.parametrize("broker", ["redis"], indirect=True)
def test_50_mib_that_are_no_message_are_set_aside_as_they_are_and_can_be_discarded(stack, audience):
    before, content = letters(stack), randbytes(50 * 2**20)
    stack.services.alerts.acknowledge_all()
    stack.broker_client().lpush(CHANGES_QUEUE, content)
    stack.send(*audience.added("secretive-behind"))
    (identifier,) = eventually(lambda: letters(stack).keys() - before.keys())
    letter = letters(stack)[identifier]
    kept = stack.services.dead_letters.message(letter).kwargs["bytes"]
    assert kept["length"] == len(content)
    assert kept["key"] in letter.message
    with Redis.from_url(stack.environment["AUDIENCE_REDIS_URL"]) as state:
        assert state.get(kept["key"]) == content
    eventually(audience.received)
    eventually(lambda: stack.unacknowledged() == 0)
    assert not stack.broker_client().exists(SET_ASIDE)
    stack.services.dead_lettering.discard(letter)
    assert not stack.services.redis.exists(kept["key"])
