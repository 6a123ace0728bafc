"""What is kept of most changes is all of them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.changes import Change, DeviceChange
from schemas.memberships import Memberships

NAMES = ("MPID", "CustomerId", "Email")
USER = st.dictionaries(st.sampled_from(NAMES), st.text(max_size=3), min_size=1)
CHANGE = st.builds(
    Change,
    st.sampled_from(["member_added", "member_removed"]),
    st.integers(1, 3),
    st.none() | st.text(max_size=2),
    st.integers(0, 9),
    USER,
    st.just({}),
    st.none() | st.text(max_size=2),
)
ADDED = Change("member_added", 1, "Name", None, 7, {"CustomerId": "a"})
REMOVED = Change("member_removed", 1, "Name", None, 8, {"CustomerId": "b"})


@given(st.lists(CHANGE, min_size=1, max_size=6))
def test_changes_come_out_of_columns_unchanged(changes):
    memberships = Memberships.of(changes, NAMES)
    if memberships:
        assert memberships.changes() == changes
        assert len(memberships) == len(changes)
        assert memberships.audience_ids == {change.audience_id for change in changes}


OTHERS = {
    "no changes": [],
    "an identity change": [
        ADDED,
        Change("identity_changed", 1, "Name", None, 7, {"Email": "x"}, {"Email": "y"}),
    ],
    "an audience's end": [ADDED, Change("audience_deleted", 1, "Name", None, 7)],
    "a user without identities": [ADDED, Change("member_added", 1, "Name", None, 7, {})],
    "a further device": [ADDED, DeviceChange("member_added", 1, "Name", 7, {"CustomerId": "b"})],
    "a user that comes up twice": [
        ADDED,
        REMOVED,
        Change("member_removed", 1, "Name", None, 9, {"CustomerId": "a"}),
    ],
    "a user that comes up twice among others": [
        ADDED,
        Change("member_removed", 1, "Name", None, 9, {"MPID": "m"}),
        Change("member_removed", 1, "Other", None, 9, {"CustomerId": "a", "Email": "e"}),
    ],
}


@pytest.mark.parametrize("changes", OTHERS.values(), ids=OTHERS)
def test_other_changes_are_no_memberships(changes):
    assert Memberships.of(changes, NAMES) is None


def test_users_of_different_audiences_or_told_by_different_identities_are_not_the_same():
    others = [
        Change("member_added", 2, "Name", None, 7, {"CustomerId": "a"}),
        Change("member_added", 1, "Name", None, 7, {"Email": "a"}),
        Change("member_added", 1, "Name", None, 7, {"MPID": "a", "CustomerId": "a"}),
    ]
    assert Memberships.of([ADDED, REMOVED, *others], NAMES)
