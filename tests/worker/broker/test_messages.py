"""Task calls in both of Celery's message protocols."""

import json
from types import SimpleNamespace

import pytest
from celery import Celery

from worker.broker.messages import EncodedCall, encoded_call, load_envelope, queue_of, read_task_call

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


ENVELOPE = {
    "body": "W1tdLCB7ImNoYW5nZXMiOiBbXX0sIG51bGxd",
    "content-type": "application/json",
    "headers": {"task": "audience.forward", "id": "one"},
    "properties": {"body_encoding": "base64", "delivery_tag": "tag"},
}
COMPACT = {"separators": (",", ":")}


def with_text_body(envelope):
    body = envelope["body"]
    return envelope | {"body": bytes(body).decode() if isinstance(body, memoryview) else body}


@pytest.mark.parametrize("options", [{}, COMPACT], ids=["as kombu writes it", "compact"])
@pytest.mark.parametrize("before", [{}, {"sequence": "1700000000000000"}], ids=["as sent", "stamped"])
def test_the_body_of_an_envelope_stays_bytes(before, options):
    stamp = json.dumps(before, **COMPACT)[1:-1]
    text = json.dumps(ENVELOPE, **options)
    text = "{" + stamp + "," + text[1:] if stamp else text
    envelope = load_envelope(text.encode())
    assert isinstance(envelope["body"], memoryview)
    assert with_text_body(envelope) == before | ENVELOPE
    assert encoded_call(envelope).decode().kwargs == KWARGS


@pytest.mark.parametrize(
    "text",
    [
        json.dumps(ENVELOPE | {"body": "/+/"}).replace("/", "\\/"),
        json.dumps(ENVELOPE | {"body": 'a"b'}),
        json.dumps(ENVELOPE)[:-1] + ', "body": "another"}',
        json.dumps(ENVELOPE)[:-1] + ', "b\\u006fdy": "?"}',
        json.dumps({"headers": {}} | ENVELOPE),
        json.dumps(ENVELOPE | {"body": [[], KWARGS, None]}),
        json.dumps([ENVELOPE]),
    ],
    ids=[
        "escaped",
        "a quotation mark",
        "two bodies",
        "two bodies, one escaped",
        "another order",
        "no text",
        "a list",
    ],
)
def test_an_envelope_as_others_write_it_is_read_as_json(text):
    assert load_envelope(text.encode()) == json.loads(text)


@pytest.mark.parametrize(
    "text", [b"", b"{", b'{"body": "', b'{"body": "abc', b'{"body": "abc"', b'{"body": "\xff"x}']
)
def test_a_text_that_is_no_json_is_no_envelope(text):
    with pytest.raises(ValueError):
        load_envelope(text)


def test_no_repr_of_a_call_has_its_arguments():
    call = EncodedCall({"task": "audience.forward"}, b'[[], {"changes": ["secretive"]}, null]')
    assert repr(call) == "<EncodedCall of audience.forward>"
    assert repr(call.decode()) == "<TaskCall of audience.forward>"
