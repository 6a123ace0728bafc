"""Which messages have their changes decoded at once, and that each way of encoding them says the same."""

import json

import pytest
from hypothesis import example, given
from items import ADDED, CHANGED, DELETED, ITEMS, as_received

from schemas.changes import as_changes
from schemas.many_changes import (
    FIRST_CHANGE_BYTES,
    MANY_CHANGES,
    decode_many_changes,
    encode_changes,
    encode_many_changes,
)
from worker.broker.serialization import dumps_bytes

IN_ORDER = {
    "type": "identity_changed",
    "audience_id": 1,
    "audience_external_name": "External",
    "audience_internal_name": "Internal",
    "timestamp": 7,
    "user_identities": {"CustomerId": "secretive"},
    "previous_user_identities": {"Email": "secretive"},
}
"""A change with all fields, in the contract's order."""


def body_of(items, **further):
    """The body of a call of Celery's protocol 2."""
    return dumps_bytes([[], {"changes": items} | further, {"callbacks": None, "chain": None}])


HALF_A_PAIR = "\ud800"


@given(ITEMS, ITEMS)
@example(ADDED | {"user_identities": {"Email": HALF_A_PAIR}}, ADDED)
@example(ADDED, ADDED | {"audience_external_name": HALF_A_PAIR})
def test_many_changes_are_encoded_alike_from_a_body_and_from_arguments(first, other):
    items = [first] * (MANY_CHANGES - 1) + [other]
    changes = decode_many_changes(body_of(items))
    assert (changes and encode_changes(changes)) == encode_many_changes(as_received(items))
    assert changes is None or changes == as_changes(as_received(items))


@pytest.mark.parametrize(
    "item", [ADDED, CHANGED, DELETED, IN_ORDER], ids=["added", "changed", "deleted", "all fields"]
)
def test_many_changes_are_encoded_as_they_were_sent(item):
    arguments = {"changes": [item] * MANY_CHANGES}
    assert encode_many_changes(arguments) == dumps_bytes(arguments)
    spaced = json.dumps([[], arguments, None], indent=2).encode()
    assert encode_changes(decode_many_changes(spaced)) == dumps_bytes(arguments)


@pytest.mark.parametrize(
    "first",
    [
        dict(reversed(ADDED.items())),
        ADDED | {"audience_internal_name": None},
        DELETED | {"user_identities": {}},
        7,
    ],
    ids=["in another order", "a null", "an empty user", "no change"],
)
def test_changes_that_would_be_encoded_otherwise_are_not_many(first):
    items = [first] + [ADDED] * MANY_CHANGES
    assert encode_many_changes({"changes": items}) is None
    assert decode_many_changes(body_of(items)) is None


@pytest.mark.parametrize(
    "body",
    [
        body_of([ADDED] * (MANY_CHANGES - 1)),
        body_of([ADDED] * MANY_CHANGES, more=1),
        dumps_bytes([[[ADDED] * MANY_CHANGES], {}, None]),
        dumps_bytes([[], {"changes": [ADDED] * MANY_CHANGES}, {"chain": [{"task": "next"}]}]),
        body_of([ADDED] * MANY_CHANGES)[:-1],
        b'[[],{"changes":[' + b"[" * 5000,
        body_of([ADDED] * MANY_CHANGES).replace(b"secretive", b"\xff"),
        body_of([ADDED | {"audience_external_name": "x" * FIRST_CHANGE_BYTES}] * MANY_CHANGES),
        body_of([ADDED] * MANY_CHANGES, CHANGES=[CHANGED] * MANY_CHANGES).replace(b"CHANGES", b"changes"),
    ],
    ids=[
        "a few changes",
        "another argument",
        "a positional argument",
        "a call that follows",
        "half a body",
        "deeply nested",
        "no UTF-8",
        "a long change",
        "two lists of changes",
    ],
)
def test_other_bodies_hold_no_many_changes(body):
    assert decode_many_changes(body) is None
