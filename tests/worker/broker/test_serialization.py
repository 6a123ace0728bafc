"""JSON and base64 for messages: what orjson refuses, Python's and kombu's JSON still read and write."""

import json
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st
from kombu.serialization import dumps as kombu_dumps
from kombu.serialization import loads as kombu_loads
from kombu.transport.virtual import Base64

from worker.broker.serialization import FastBase64, dumps, loads, register_orjson

INTEGERS = st.integers(min_value=-(2**63), max_value=2**64 - 1)
"""orjson reads larger ones as floats. No field of a change may hold one."""
JSON = st.recursive(
    st.none() | st.booleans() | INTEGERS | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(JSON)
def test_content_is_the_same_after_writing_and_reading(content):
    assert loads(dumps(content)) == content
    assert loads(json.dumps(content)) == content
    assert json.loads(dumps(content)) == content


@pytest.mark.parametrize("text", ['"\\ud800"', "NaN", f"[{2**64 - 1}]"])
def test_texts_that_python_s_json_accepts_are_read(text):
    assert repr(loads(text)) == repr(json.loads(text))


def test_an_integer_beyond_64_bits_is_read_as_a_float():
    assert isinstance(loads(str(2**64)), float)


@pytest.mark.parametrize("content", ["half a pair: \ud800", 2**64])
def test_content_that_orjson_refuses_is_written_by_kombu(content):
    assert loads(dumps(content)) == content


@pytest.mark.parametrize("text", ["", "secretive", "[1", b"\xff\xfe"])
def test_texts_that_are_not_json_raise_a_value_error(text):
    with pytest.raises(ValueError):
        loads(text)


def test_types_of_celery_s_control_messages_are_written():
    register_orjson()
    content = {"eta": datetime(2026, 1, 1, tzinfo=UTC)}
    content_type, encoding, text = kombu_dumps(content, serializer="json")
    assert kombu_loads(text, content_type, encoding)["eta"] in (content["eta"], content["eta"].isoformat())


@given(st.text() | st.binary())
def test_a_body_is_encoded_and_decoded_as_kombu_does(body):
    encoded = FastBase64().encode(body)
    assert encoded == Base64().encode(body)
    assert FastBase64().decode(encoded) == Base64().decode(encoded)


def decoded(codec, text):
    try:
        return codec.decode(text)
    except ValueError:
        return ValueError


@given(st.text(alphabet="QUJDRA=+/ \n-_é"))
def test_any_text_is_decoded_as_kombu_does(text):
    assert decoded(FastBase64(), text) == decoded(Base64(), text)
