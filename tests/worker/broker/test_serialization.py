"""JSON for messages: fast where it can be, and as lenient as Celery's own where it must be."""

import json
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st
from kombu.serialization import dumps as kombu_dumps
from kombu.serialization import loads as kombu_loads

from worker.broker.serialization import dumps, loads, register_orjson

INTEGERS = st.integers(min_value=-(2**63), max_value=2**64 - 1)
"""orjson reads larger ones as floats. No field of a change takes one."""
JSON = st.recursive(
    st.none() | st.booleans() | INTEGERS | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(JSON)
def test_what_goes_in_comes_out(content):
    assert loads(dumps(content)) == content
    assert loads(json.dumps(content)) == content
    assert json.loads(dumps(content)) == content


@pytest.mark.parametrize("text", ['"\\ud800"', "NaN", f"[{2**64 - 1}]"])
def test_what_python_s_json_takes_is_taken(text):
    assert repr(loads(text)) == repr(json.loads(text))


def test_an_integer_beyond_64_bits_comes_as_none_and_so_is_refused_later():
    assert isinstance(loads(str(2**64)), float)


@pytest.mark.parametrize("content", ["half a pair: \ud800", 2**64])
def test_what_orjson_refuses_is_sent_all_the_same(content):
    assert loads(dumps(content)) == content


@pytest.mark.parametrize("text", ["", "secretive", "[1", b"\xff\xfe"])
def test_what_is_no_json_is_refused(text):
    with pytest.raises(ValueError):
        loads(text)


def test_celery_s_own_types_come_back():
    register_orjson()
    content = {"eta": datetime(2026, 1, 1, tzinfo=UTC)}
    content_type, encoding, text = kombu_dumps(content, serializer="json")
    assert kombu_loads(text, content_type, encoding)["eta"] in (content["eta"], content["eta"].isoformat())
