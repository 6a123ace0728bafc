"""Which changes are accepted, and what is said of those that are not."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from items import ADDED, CHANGED, DELETED, ITEMS, LAST_SECOND, as_received
from marshmallow import ValidationError
from msgspec.structs import asdict

from schemas.changes import ChangeSchema, as_changes, check_changes, fill_timestamps
from schemas.checking import sentences
from schemas.identities import Catalogue

SCHEMA = ChangeSchema(Catalogue())
RECEIVED_AT = 1_700_000_000
NO_SECONDS = {
    "before 1970": (-1, "before 1970"),
    "the least integer": (-(2**63), "before 1970"),
    "after 9999": (LAST_SECOND + 1, "milliseconds?"),
    "milliseconds": (1_700_000_000_000, "milliseconds?"),
    "microseconds": (1_700_000_000_000_000, "microseconds?"),
    "nanoseconds": (1_700_000_000_000_000_000, "nanoseconds?"),
    "the greatest integer": (2**63 - 1, "nanoseconds?"),
}

INVALID = {
    "no object": (7, ["invalid input type"]),
    "a list": ([ADDED], ["invalid input type"]),
    "nothing": (None, ["invalid input type"]),
    "no type": ({**ADDED, "type": None}, ["type: field may not be null"]),
    "an unknown type": (ADDED | {"type": "secretive"}, ["type: unknown type"]),
    "a type that cannot be looked up": (ADDED | {"type": ["member_added"]}, ["type: not a string"]),
    "a text as ID": (ADDED | {"audience_id": "1"}, ["audience_id: not an integer"]),
    "a boolean as ID": (ADDED | {"audience_id": True}, ["audience_id: not an integer"]),
    "a fraction as ID": (ADDED | {"audience_id": 1.0}, ["audience_id: not an integer"]),
    "an ID above 64 bits": (ADDED | {"audience_id": 2**63}, ["audience_id: does not fit in 64 bits"]),
    "an ID below 64 bits": (ADDED | {"audience_id": -(2**63) - 1}, ["audience_id: does not fit in 64 bits"]),
    "a time above 64 bits": (ADDED | {"timestamp": 2**63}, ["timestamp: does not fit in 64 bits"]),
    "a boolean as time": (ADDED | {"timestamp": False}, ["timestamp: not an integer"]),
    "a fraction as time": (ADDED | {"timestamp": 7.5}, ["timestamp: not an integer"]),
    "no time where there is the key": (ADDED | {"timestamp": None}, ["timestamp: field may not be null"]),
    "a number as name": (
        ADDED | {"audience_external_name": 7, "audience_internal_name": "Internal"},
        ["audience_external_name: not a string"],
    ),
    "half a surrogate pair in a name": (
        ADDED | {"audience_internal_name": "\ud800"},
        ["audience_internal_name: not valid Unicode"],
    ),
    "no name": (
        ADDED | {"audience_external_name": None},
        ["audience_external_name: required, or audience_internal_name, and not empty"],
    ),
    "empty names": (
        ADDED | {"audience_external_name": "", "audience_internal_name": ""},
        ["audience_external_name: required, or audience_internal_name, and not empty"],
    ),
    "no user": (
        {key: value for key, value in ADDED.items() if key != "user_identities"},
        ["user_identities: required, with at least one identity"],
    ),
    "an empty user": (
        ADDED | {"user_identities": {}},
        ["user_identities: required, with at least one identity"],
    ),
    "a user of nulls": (
        ADDED | {"user_identities": {"Email": None}},
        ["user_identities: required, with at least one identity"],
    ),
    "a null user": (ADDED | {"user_identities": None}, ["user_identities: field may not be null"]),
    "a user that is a list": (ADDED | {"user_identities": ["secretive"]}, ["user_identities: not an object"]),
    "an identity that is a number": (
        ADDED | {"user_identities": {"CustomerId": 7}},
        ["user_identities: an identity that is not a string"],
    ),
    "an unknown identity": (
        ADDED | {"user_identities": {"secretive@example.com": "x"}},
        ["user_identities: unknown identity name"],
    ),
    "an identity as people call it": (
        ADDED | {"user_identities": {"Customer ID": "x"}},
        ["user_identities: unknown identity name"],
    ),
    "half a surrogate pair in an identity": (
        ADDED | {"user_identities": {"Email": "secretive\udfff"}},
        ["user_identities: not valid Unicode"],
    ),
    "an unknown key": (ADDED | {"secretive@example.com": 1}, ["unknown key"]),
    "previous identities where nothing changed": (
        ADDED | {"previous_user_identities": {"Email": "secretive"}},
        ["previous_user_identities: only for identity_changed"],
    ),
    "null previous identities where nothing changed": (
        ADDED | {"previous_user_identities": None},
        [
            "previous_user_identities: field may not be null",
            "previous_user_identities: only for identity_changed",
        ],
    ),
    "no previous identities where they changed": (
        ADDED | {"type": "identity_changed"},
        ["previous_user_identities: required, with at least one identity"],
    ),
    "previous identities of nulls": (
        CHANGED | {"previous_user_identities": {"Email": None}},
        ["previous_user_identities: required, with at least one identity"],
    ),
    "previous identities of a deleted audience": (
        DELETED | {"previous_user_identities": {"Email": "secretive"}},
        ["previous_user_identities: only for identity_changed"],
    ),
    "more than one problem": (
        {"type": "member_added", "audience_id": "1", "user_identities": {}},
        [
            "audience_external_name: required, or audience_internal_name, and not empty",
            "audience_id: not an integer",
            "user_identities: required, with at least one identity",
        ],
    ),
}


def check(*items):
    return check_changes(SCHEMA, list(items), lambda: RECEIVED_AT)


def accepted(item):
    (change,), invalid = check(item)
    assert not invalid
    return change


@pytest.mark.parametrize(("item", "problems"), INVALID.values(), ids=INVALID)
def test_an_invalid_change_is_refused_with_the_problem_of_each_field(item, problems):
    changes, (invalid,) = check(item)
    assert not changes
    assert invalid.problems == problems
    assert invalid.item == item


@pytest.mark.parametrize(("item", "problems"), INVALID.values(), ids=INVALID)
def test_the_problems_of_an_invalid_change_hold_none_of_its_values(item, problems):
    _, (invalid,) = check(item)
    assert "secretive" not in repr(invalid)
    assert "example.com" not in repr(invalid)


def test_invalid_changes_do_not_delay_the_valid_ones_beside_them():
    changes, invalid = check(ADDED, 7, CHANGED, ADDED | {"audience_id": "1"}, DELETED)
    assert [change.type for change in changes] == ["member_added", "identity_changed", "audience_deleted"]
    assert [refused.position for refused in invalid] == [1, 3]


def test_the_external_name_wins():
    assert accepted(ADDED | {"audience_internal_name": "Internal"}).audience_name == "External"


@pytest.mark.parametrize("external", [{"audience_external_name": ""}, {"audience_external_name": None}, {}])
def test_the_internal_name_counts_where_there_is_no_external_one(external):
    names = {"audience_internal_name": "Internal"} | external
    nameless = {key: value for key, value in ADDED.items() if key != "audience_external_name"}
    assert accepted(nameless | names).audience_name == "Internal"


def test_null_identities_are_dropped_and_empty_ones_kept_in_their_order():
    user = {"Other3": "b", "Email": None, "CustomerId": "", "Other": "a"}
    kept = accepted(ADDED | {"user_identities": user}).user_identities
    assert list(kept.items()) == [("Other3", "b"), ("CustomerId", ""), ("Other", "a")]


def test_without_a_timestamp_the_time_of_receipt_counts():
    timeless = {key: value for key, value in ADDED.items() if key != "timestamp"}
    assert accepted(timeless).timestamp == RECEIVED_AT
    assert accepted(ADDED).timestamp == 7


def test_the_time_zero_is_a_timestamp():
    assert accepted(ADDED | {"timestamp": 0}).timestamp == 0


@pytest.mark.parametrize("seconds", [0, 1_700_000_000, LAST_SECOND])
def test_a_timestamp_lies_between_1970_and_9999(seconds):
    assert accepted(ADDED | {"timestamp": seconds}).timestamp == seconds


@pytest.mark.parametrize(("timestamp", "hint"), NO_SECONDS.values(), ids=NO_SECONDS)
def test_a_timestamp_that_cannot_be_seconds_is_refused_with_a_hint_and_without_its_value(timestamp, hint):
    changes, (invalid,) = check(ADDED | {"timestamp": timestamp})
    assert not changes
    assert invalid.problems == [f"timestamp: not Unix seconds: {hint}"]


@pytest.mark.parametrize("number", [2**63 - 1, -(2**63), 0])
def test_an_audience_id_has_64_bits(number):
    assert accepted(ADDED | {"audience_id": number}).audience_id == number


def test_a_deleted_audience_needs_no_user():
    assert accepted(DELETED).user_identities == {}


def test_a_configured_identity_name_replaces_the_standard_one():
    schema = ChangeSchema(Catalogue({"Email": "EmailAddress"}))
    alternative = ADDED | {"user_identities": {"EmailAddress": "x"}}
    standard = ADDED | {"user_identities": {"Email": "x"}}
    changes, invalid = check_changes(schema, [alternative, standard], lambda: 0)
    assert (len(changes), [refused.position for refused in invalid]) == (1, [1])


def test_a_change_does_not_show_its_user():
    assert repr(accepted(CHANGED)) == "<Change identity_changed of audience 1>"


@pytest.mark.parametrize("item", [ADDED, CHANGED, DELETED])
def test_a_change_can_be_sent_again_as_an_item(item):
    change = accepted(item)
    assert accepted(change.as_item()) == change


# A valid item is read without marshmallow (docs/decisions/0027). What is read so, is what marshmallow makes
# of it; and what marshmallow refuses, is not read so.


class AskingSchema(ChangeSchema):
    """Asks marshmallow about each item, and counts how often it was asked."""

    loads = 0

    def load(self, *args, **options):
        self.loads += 1
        return super().load(*args, **options)


class MarshmallowOnly(ChangeSchema):
    def _read_valid(self, item):
        return None


def read(schema, item):
    """The change in an item, or what is wrong with it, as JSON, since 1 == True == 1.0 to Python."""
    try:
        return json.dumps(asdict(schema.read(item, lambda: RECEIVED_AT)))
    except ValidationError as error:
        return json.dumps(sentences(schema, error))


@given(ITEMS)
def test_an_item_is_read_as_marshmallow_reads_it(item):
    assert read(SCHEMA, item) == read(MarshmallowOnly(Catalogue()), item)


@given(st.lists(ITEMS, max_size=4))
def test_items_are_valid_together_where_marshmallow_reads_each_of_them_so(items):
    changes = as_changes(as_received(items))
    if changes is not None and SCHEMA.are_valid(changes):
        fill_timestamps(changes, lambda: RECEIVED_AT)
        alone = [read(MarshmallowOnly(Catalogue()), item) for item in items]
        assert [json.dumps(asdict(change)) for change in changes] == alone


@given(st.lists(ITEMS, max_size=4))
def test_changes_are_valid_together_where_each_of_them_is(items):
    changes = as_changes(as_received(items))
    if changes is not None:
        assert SCHEMA.are_valid(changes) == all(SCHEMA.are_valid([change]) for change in changes)


@pytest.mark.parametrize("item", [ADDED, CHANGED, DELETED, {**ADDED, "timestamp": 0}], ids=str)
def test_marshmallow_is_not_asked_about_a_valid_item(item):
    schema = AskingSchema(Catalogue())
    changes = as_changes({"changes": [item]})
    assert schema.are_valid(changes)
    assert fill_timestamps(changes, lambda: 0) == [schema.read(item, lambda: 0)]
    nulls = item.get("user_identities", {}) | {"Email": None}
    schema.read(item | {"user_identities": nulls}, lambda: 0)
    assert not schema.loads


@pytest.mark.parametrize("arguments", [7, {}, {"changes": {}}, {"changes": [], "more": 1}, {"changes": [7]}])
def test_other_arguments_are_no_changes(arguments):
    assert as_changes(arguments) is None


@pytest.mark.parametrize(("item", "problems"), INVALID.values(), ids=INVALID)
@pytest.mark.parametrize("before", [ADDED, CHANGED, DELETED], ids=lambda change: change["type"])
def test_an_invalid_change_after_a_valid_one_is_found(item, problems, before):
    _, (invalid,) = check(before, item)
    assert invalid.problems == problems
