"""Any JSON at all as a change: it is a change or an invalid item, and never anything else."""

import json

import pytest
from hostile import JSON, PERSONAL, TEXT, deep, inputs, mutations
from hypothesis import given
from hypothesis import strategies as st
from marshmallow import ValidationError

from schemas.changes import Change, ChangeSchema, Invalid, check_changes
from schemas.checking import sentences
from schemas.fields import MAX_UNIX_SECONDS
from schemas.identities import Catalogue
from schemas.records import Projection, Skip, render

CATALOGUE = Catalogue()
SCHEMA = ChangeSchema(CATALOGUE)
RECEIVED_AT = 1_700_000_000
ADDED = {
    "type": "member_added",
    "audience_id": 1,
    "audience_external_name": "Name",
    "audience_internal_name": "name",
    "timestamp": 7,
    "user_identities": {"CustomerId": PERSONAL, "Email": "", "Other": None},
}
CHANGED = ADDED | {"type": "identity_changed", "previous_user_identities": {"Email": PERSONAL}}
DELETED = {"type": "audience_deleted", "audience_id": 1, "audience_internal_name": "name"}

VOCABULARY = {"unknown key", "invalid input type"}
FIELDS = set(SCHEMA.fields)
PROBLEMS = {
    "not a string",
    "not an integer",
    "does not fit in 64 bits",
    "not valid Unicode",
    "not an object",
    "unknown identity name",
    "an identity that is not a string",
    "unknown type",
    "field may not be null",
    "missing data for required field",
    "required, or audience_internal_name, and not empty",
    "required, with at least one identity",
    "only for identity_changed",
    "not Unix seconds: before 1970",
    "not Unix seconds: milliseconds?",
    "not Unix seconds: microseconds?",
    "not Unix seconds: nanoseconds?",
}
"""All that is ever said of a change. Nothing in it comes from the change."""

ITEM = mutations(ADDED) | mutations(CHANGED) | mutations(DELETED) | JSON
NAMES = sorted(CATALOGUE.names)
USER = st.dictionaries(st.sampled_from(NAMES), st.none() | TEXT, max_size=4)
NEARLY = st.fixed_dictionaries(
    {
        "type": st.sampled_from(["member_added", "member_removed", "identity_changed", "audience_deleted"]),
        "audience_id": st.integers(-(2**63), 2**63 - 1),
        "audience_external_name": st.none() | TEXT,
        "user_identities": USER,
    },
    optional={
        "audience_internal_name": TEXT,
        "timestamp": st.integers(0, MAX_UNIX_SECONDS),
        "previous_user_identities": USER,
    },
)
METADATA = ("ChangeId", "SequenceNumber", "SchemaVersion")
VIEW = st.builds(
    Projection,
    excluded=st.frozensets(st.sampled_from(NAMES), max_size=5),
    anonymous_name=st.just(CATALOGUE.anonymous),
    send_anonymous_users=st.booleans(),
    send_remove_on_identity_change=st.booleans(),
    append_newline=st.booleans(),
    include_metadata=st.booleans(),
)


def check(items):
    return check_changes(SCHEMA, items, lambda: RECEIVED_AT)


def alone(item):
    """Check an item alone, with nothing checked before it."""
    try:
        return SCHEMA.load(item)
    except ValidationError as error:
        return sentences(SCHEMA, error)


def is_of_our_words(problem):
    field, _, what = problem.partition(": ")
    return problem in VOCABULARY or (field in FIELDS and what in PROBLEMS)


@inputs(5000)
@given(items=st.lists(ITEM, min_size=1, max_size=6))
def test_every_item_is_a_change_or_invalid_and_its_neighbours_are_what_they_are_alone(items):
    changes, invalid = check(items)
    wrong = {found.position: found for found in invalid}
    right = iter(changes)
    assert len(changes) + len(wrong) == len(invalid) + len(changes) == len(items)
    for position, item in enumerate(items):
        answer = alone(item)
        if position in wrong:
            assert isinstance(wrong[position], Invalid)
            assert wrong[position].item is item
            assert wrong[position].problems == answer != []
        else:
            change = next(right)
            assert isinstance(change, Change)
            assert (change.audience_id, change.type) == (answer["audience_id"], answer["type"])
            assert change.user_identities == answer.get("user_identities", {})


@inputs(2000)
@given(items=st.lists(ITEM, max_size=4))
def test_the_problems_of_an_invalid_item_hold_none_of_its_values(items):
    _, invalid = check(items)
    for found in invalid:
        assert all(map(is_of_our_words, found.problems)), found.problems
        assert PERSONAL not in repr(found)


@inputs(2000)
@given(items=st.lists(NEARLY | ITEM, max_size=4), projection=VIEW)
def test_the_record_of_any_valid_change_says_what_the_change_says(items, projection):
    changes, _ = check([ADDED, *items, CHANGED])
    assert (changes[0].user_identities, changes[-1].type) == (
        {"CustomerId": PERSONAL, "Email": ""},
        "identity_changed",
    )
    for change in changes:
        lines, skipped = render(change, projection)
        for line in lines:
            assert line.endswith(b"\n") == projection.append_newline
            assert line.count(b"\n") == projection.append_newline
        records = [json.loads(line) for line in lines]
        metadata = [[record.pop(key, None) for key in METADATA] for record in records]
        assert records == expected(change, projection)
        assert len({change_id for change_id, *_ in metadata} - {None}) == (
            len(lines) if projection.include_metadata else 0
        )
        pair = change.type == "identity_changed" and projection.send_remove_on_identity_change
        assert len(lines) + len(skipped) == (2 if pair and skipped != (Skip.UNCHANGED,) else 1)


def expected(change, projection):
    """The records of a change, as the contract has them."""
    head = {
        "MembershipChangedTimestamp": str(change.timestamp),
        "AudienceId": change.audience_id,
        "AudienceName": change.audience_name,
    }
    if change.type == "audience_deleted":
        return [head | {"IsMember": False, "UserIdentities": {}, "IsDeleted": True}]
    users = [(change.type != "member_removed", change.user_identities)]
    if change.type == "identity_changed" and projection.send_remove_on_identity_change:
        users.insert(0, (False, change.previous_user_identities))
    seen = [
        (member, {name: value for name, value in user.items() if name not in projection.excluded})
        for member, user in users
    ]
    if change.type == "identity_changed":
        before, after = (
            {name: value for name, value in user.items() if name not in projection.excluded}
            for user in (change.previous_user_identities, change.user_identities)
        )
        if before == after:
            return []
    return [
        head | {"IsMember": member, "UserIdentities": user}
        for member, user in seen
        if user
        and (projection.send_anonymous_users or {name for name, value in user.items() if value} - {"MPID"})
    ]


@pytest.mark.parametrize("place", [*ADDED, "unknown"])
def test_nesting_without_end_is_an_invalid_change_like_any_other(place):
    changes, invalid = check([ADDED, ADDED | {place: deep(5000)}, deep(5000), ADDED])
    assert (len(changes), [found.position for found in invalid]) == (2, [1, 2])


@pytest.mark.parametrize("problem", [f"type: {PERSONAL}", PERSONAL, f"{PERSONAL}: not a string"])
def test_the_check_finds_words_that_are_not_ours(problem):
    assert not is_of_our_words(problem)
