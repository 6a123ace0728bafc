"""Task calls in both of Celery's message protocols."""

import json
from types import SimpleNamespace

import pytest
from celery import Celery

from worker.broker.messages import queue_of, read_task_call

KWARGS = {"changes": []}


def sent_by_celery(protocol):
    """A message as Celery itself writes it."""
    app = Celery(broker="memory://", set_as_current=False)
    app.conf.task_protocol = protocol
    written = app.amqp.task_protocols[protocol](
        "one", "audience.forward", (7,), KWARGS, eta=None, retries=3, origin="gen1@host"
    )
    return SimpleNamespace(headers=written.headers, payload=json.loads(json.dumps(written.body)))


@pytest.mark.parametrize("protocol", [1, 2])
def test_both_protocols_say_the_same(protocol):
    call = read_task_call(sent_by_celery(protocol))
    assert (call.task, call.id, call.args, call.kwargs) == ("audience.forward", "one", [7], KWARGS)
    assert (call.retries, call.eta) == (3, None)


def test_protocol_2_names_the_sender():
    assert read_task_call(sent_by_celery(2)).origin == "gen1@host"
    assert read_task_call(sent_by_celery(1)).origin is None


def test_the_third_part_of_a_body_cannot_change_what_the_headers_say():
    headers = {"task": "audience.forward", "id": "one"}
    body = [[], {}, {"task": "other", "id": "two", "chain": []}]
    call = read_task_call(SimpleNamespace(headers=headers, payload=body))
    assert (call.task, call.id, call.fields["chain"]) == ("audience.forward", "one", [])


@pytest.mark.parametrize("payload", [None, 5, [], [[], {}], [[], [], {}], {"args": []}])
def test_another_body_holds_no_call(payload):
    assert read_task_call(SimpleNamespace(headers={"task": "audience.forward"}, payload=payload)) is None


@pytest.mark.parametrize("info", [None, {}, {"routing_key": None}])
def test_a_message_without_a_routing_key_is_of_no_queue(info):
    assert not queue_of(SimpleNamespace(delivery_info=info))
