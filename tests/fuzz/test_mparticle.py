"""Any JSON at all as an mParticle request."""

import json

from hostile import JSON, PERSONAL, deep, inputs, mutations
from hypothesis import given
from hypothesis import strategies as st

from schemas.changes import Change, ChangeSchema, check_changes
from schemas.identities import Catalogue
from schemas.sources.mparticle import translate

CATALOGUE = Catalogue()
PROFILE = {
    "user_identities": [
        {"type": "email", "encoding": "md5", "value": PERSONAL},
        {"type": "customer", "encoding": "raw", "value": None},
    ],
    "device_identities": [{"type": "ios_advertising_id", "encoding": "raw", "value": PERSONAL}],
    "partner_identities": [{"type": "partner_id", "encoding": "raw", "value": PERSONAL}],
    "audiences": [
        {"audience_id": 456, "audience_name": "One", "action": "add"},
        {"audience_id": 789, "audience_name": "Two", "action": "attribute_update", "user_attributes": [{}]},
        {"audience_id": 654, "audience_name": "Three", "action": "delete"},
    ],
    "mpid": "12345",
}
SAMPLE = {
    "type": "audience_membership_change_request",
    "timestamp_ms": 1685499524620,
    "account": {"account_id": 123456, "account_settings": {"A": PERSONAL}},
    "user_profiles": [PROFILE],
}
"""The SDK's published sample, shortened."""
GOOD = {
    "user_identities": [{"type": "other", "value": "good"}],
    "audiences": [{"audience_id": 1, "audience_name": "Good", "action": "add"}],
}


@inputs(2000)
@given(request=mutations(SAMPLE, most=4) | JSON)
def test_a_request_is_translated_or_said_to_be_invalid(request):
    changes, invalid, skipped = translate(request, CATALOGUE)
    assert all(isinstance(change, Change) for change in changes)
    assert all(count >= 0 for count in skipped.values())
    assert PERSONAL not in repr((changes, invalid, skipped))
    for found in invalid:
        assert found.problems


def test_nesting_without_end_is_invalid_like_anything_else():
    for request in (
        deep(5000),
        SAMPLE | {"user_profiles": [deep(5000), PROFILE | {"audiences": [deep(5000)]}]},
    ):
        assert translate(request, CATALOGUE).invalid


@inputs(1000)
@given(profiles=st.lists(mutations(PROFILE) | JSON, max_size=3))
def test_a_good_profile_is_translated_whatever_stands_beside_it(profiles):
    changes, invalid, _ = translate(SAMPLE | {"user_profiles": [GOOD, *profiles, GOOD]}, CATALOGUE)
    for change in (changes[0], changes[-1]):
        assert (change.audience_id, change.user_identities) == (1, {"Other": "good"})
    assert {found.position for found in invalid} <= set(range(1, len(profiles) + 1))


@inputs(1000)
@given(request=mutations(SAMPLE))
def test_a_translated_change_is_one_that_anybody_could_have_sent(request):
    changes, _, _ = translate(request, CATALOGUE)
    items = json.loads(json.dumps([change.as_item() for change in changes if change.user_identities]))
    assert check_changes(ChangeSchema(CATALOGUE), items, lambda: 0) == (
        [change for change in changes if change.user_identities],
        [],
    )


@inputs(500)
@given(request=mutations(SAMPLE))
def test_the_kept_part_of_a_request_holds_its_invalid_items_alone(request):
    """Sent again as it is, all of it is invalid still, and no valid change comes twice."""
    _, invalid, _ = translate(request, CATALOGUE)
    if invalid and isinstance(request, dict) and isinstance(request.get("user_profiles"), list):
        alone = {**request, "user_profiles": [found.item for found in invalid]}
        again = translate(alone, CATALOGUE)
        assert not again.changes
        assert [found.problems for found in again.invalid] == [found.problems for found in invalid]
