"""Any arguments at all for the tasks: each call is done, or a dead letter with an alert."""

import json

import pytest
from hostile import JSON, PERSONAL, TEXT, deep, inputs, mutations
from hypothesis import example, given
from hypothesis import strategies as st

from schemas.changes import ChangeSchema, check_changes
from schemas.identities import Catalogue
from schemas.sources.mparticle import translate
from worker.broker import serialization
from worker.queues import Stream

CATALOGUE = Catalogue()
SCHEMA = ChangeSchema(CATALOGUE)
STREAM = Stream("main", "us-east-1", "travel")
FORWARD, FORWARD_MPARTICLE = "audience.forward", "audience.forward_mparticle"
ADDED = {
    "type": "member_added",
    "audience_id": 1,
    "audience_external_name": "Name",
    "timestamp": 7,
    "user_identities": {"CustomerId": PERSONAL},
}
CHANGED = ADDED | {"type": "identity_changed", "previous_user_identities": {"Email": PERSONAL}}
REQUEST = {
    "timestamp_ms": 1_700_000_000_000,
    "user_profiles": [
        {
            "user_identities": [{"type": "email", "value": PERSONAL}],
            "audiences": [{"audience_id": 1, "audience_name": "Name", "action": "add"}],
        }
    ],
}
LINE = json.dumps({"UserIdentities": {"CustomerId": PERSONAL}}) + "\n"
DELIVERY = {
    "configuration": "main",
    "delivery_stream_name": "travel",
    "records": [LINE, [LINE, LINE]],
    "connection_ids": ["1-ab12cd34"],
    "audience_ids": [1],
}

ARGS = st.just([]) | st.lists(JSON, max_size=2)
ANY_KWARGS = st.dictionaries(TEXT, JSON, max_size=3)


def objects(strategy):
    """Only the named arguments that a message can have: Celery's consumer sees to that."""
    return strategy.filter(lambda found: isinstance(found, dict)) | ANY_KWARGS


def same(kept, sent):
    """Equal as JSON, where a NaN is like another."""
    return json.dumps(as_received(kept)) == json.dumps(as_received(sent))


def as_received(content):
    """As a worker reads it: an integer of more than 64 bits is a fraction."""
    return serialization.loads(json.dumps(content))


@inputs(1500)
@given(args=ARGS, kwargs=objects(mutations({"changes": [ADDED, CHANGED, ADDED]})))
def test_any_arguments_of_forward_are_delivered_or_dead_lettered(world, args, kwargs):
    world.begin()
    world.receive(FORWARD, args, kwargs)
    changes = kwargs.get("changes")
    if args or kwargs.keys() != {"changes"} or not isinstance(changes, list):
        if not (len(args) == 1 and not kwargs and isinstance(args[0], list)):
            kept = world.letter()
            assert same(kept.kwargs, kwargs)
            assert same(kept.args, args)
            assert not world.records()
    else:
        valid, invalid = check_changes(SCHEMA, as_received(changes), lambda: 0)
        if invalid:
            assert same(world.letter().kwargs, {"changes": [changes[found.position] for found in invalid]})
        ours = [change for change in valid if change.audience_id == 1]
        forwarded = [record["UserIdentities"] for record in world.records()]
        for change in ours:
            assert change.user_identities in forwarded
        assert world.services.counters.of(None).skipped.get("no_connection", 0) == len(valid) - len(ours)
    world.check_counters()


@inputs(700)
@given(items=st.lists(mutations(ADDED) | mutations(CHANGED) | JSON, max_size=5))
def test_valid_changes_arrive_in_their_order_whatever_stands_between_them(world, items):
    world.begin()
    marked = [
        ADDED | {"user_identities": {"CustomerId": f"mark-{number}"}} for number in range(len(items) + 1)
    ]
    mixed = [change for pair in zip(marked, items, strict=False) for change in pair] + marked[-1:]
    world.receive(FORWARD, [], {"changes": mixed})
    arrived = [record["UserIdentities"].get("CustomerId") for record in world.records()]
    assert [text for text in arrived if text and text.startswith("mark-")] == [
        f"mark-{number}" for number in range(len(marked))
    ]
    world.check_counters()


@inputs(700)
@given(args=ARGS, kwargs=objects(mutations({"request": REQUEST})))
def test_any_arguments_of_forward_mparticle_are_delivered_or_dead_lettered(world, args, kwargs):
    world.begin()
    world.receive(FORWARD_MPARTICLE, args, kwargs)
    if not args and kwargs.keys() == {"request"}:
        changes, invalid, _ = translate(as_received(kwargs["request"]), CATALOGUE)
        assert bool(invalid) == bool(world.services.dead_letters.all())
        users = [change.user_identities for change in changes if change.audience_id == 1]
        assert len(world.records()) == len([user for user in users if user])
    elif not (len(args) == 1 and not kwargs):
        assert same(world.letter().kwargs, kwargs)
        assert not world.records()
    world.check_counters()


@inputs(1300)
@given(args=ARGS, kwargs=objects(mutations(DELIVERY)))
@example(args=[], kwargs=DELIVERY | {"delivery_stream_name": ""})
def test_any_arguments_of_a_delivery_are_delivered_or_dead_lettered(world, args, kwargs):
    world.begin()
    world.receive("audience.deliver.us-east-1", args, kwargs, queue=STREAM.queue)
    letters = world.services.dead_letters.all()
    if letters:
        assert same(world.letter().kwargs, kwargs)
        assert same(world.letter().args, args)
        assert not world.firehose.taken
        world.check_counters()
    else:
        lines = [
            line for group in kwargs["records"] for line in (group if isinstance(group, list) else [group])
        ]
        assert [line.decode() for line in world.firehose.taken] == lines
        # Any name is a stream here.
        world.check_counters(STREAM._replace(name=kwargs["delivery_stream_name"]))


DEPTHS = [100, 250, 300, 500, 900, 1000, 1020]
"""Up to what orjson reads, and where others' limits lie."""


@pytest.mark.parametrize("levels", DEPTHS)
@pytest.mark.parametrize("text", ["", "\ud800"], ids=["", "unicode"])
def test_nesting_without_end_is_kept_as_it_came(world, levels, text):
    world.begin()
    nested = [text, deep(levels)]
    world.receive(FORWARD, [], {"changes": [ADDED, nested, ADDED]})
    assert same(world.letter().kwargs, {"changes": [nested]})
    assert len(world.records()) == 2
    world.check_counters()
