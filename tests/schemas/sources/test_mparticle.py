"""What mParticle's Firehose SDK sends, as changes."""

import pytest

from schemas.identities import Catalogue
from schemas.records import Skip
from schemas.sources.mparticle import translate

SAMPLE = {
    "type": "audience_membership_change_request",
    "id": "4d1f4616-27d6-4721-ae0e-78dce5dd26c4",
    "timestamp_ms": 1685499524620,
    "firehose_version": "2.8.1",
    "account": {
        "account_id": 123456,
        "account_settings": {"Example String Setting": "Example Setting Value"},
    },
    "user_profiles": [
        {
            "user_identities": [
                {"type": "email", "encoding": "md5", "value": "e179e95c00e7718ab4a23840f992ea63"},
                {"type": "customer", "encoding": "md5", "value": "4739c5c11d833bb199c16ff95a92b267"},
            ],
            "device_identities": [
                {
                    "type": "ios_advertising_id",
                    "encoding": "raw",
                    "value": "66b728c2-f9a4-4d87-82ef-ce07414fe3f7",
                },
                {
                    "type": "ios_vendor_id",
                    "encoding": "raw",
                    "value": "97b826c2-ab80-4876-a184-db36cc39b1ee",
                },
                {
                    "type": "google_advertising_id",
                    "encoding": "raw",
                    "value": "31a22ef0-f119-48d4-b009-a217a26a862a",
                },
                {"type": "android_id", "encoding": "raw", "value": "a0504a8cfa15ce2c"},
            ],
            "partner_identities": [{"type": "partner_id", "encoding": "raw", "value": "partnerId"}],
            "audiences": [
                {
                    "audience_id": 456,
                    "audience_name": "Example Audience Name",
                    "audience_subscription_settings": {"Example Audience-specific setting": "Example Value"},
                    "action": "add",
                },
                {
                    "audience_id": 789,
                    "audience_name": "Example Audience Name 2",
                    "action": "attribute_update",
                    "user_attributes": [
                        {"key": "Some Key", "value": "9999999", "action": "upsert"},
                        {"key": "Churned", "action": "delete"},
                        {},
                    ],
                },
                {"audience_id": 654, "audience_name": "Example Audience Name 4", "action": "delete"},
            ],
            "mpid": "12345",
        }
    ],
}
"""The SDK's published sample."""

SAMPLE_USER = {
    "Email": "e179e95c00e7718ab4a23840f992ea63",
    "CustomerId": "4739c5c11d833bb199c16ff95a92b267",
    "AppleAdvertisingIdentifier": "66b728c2-f9a4-4d87-82ef-ce07414fe3f7",
    "AppleVendorIdentifier": "97b826c2-ab80-4876-a184-db36cc39b1ee",
    "GoogleAdvertisingIdentifier": "31a22ef0-f119-48d4-b009-a217a26a862a",
    "AndroidId": "a0504a8cfa15ce2c",
    "MPID": "12345",
}
ADD = {"audience_id": 1, "audience_name": "Name", "action": "add"}
EMAIL = {"type": "email", "value": "secretive"}


def request(*profiles, **keys):
    return {"timestamp_ms": 1_000, "user_profiles": list(profiles)} | keys


def profile(*audiences, **keys):
    return {"user_identities": [EMAIL], "audiences": list(audiences or [ADD])} | keys


def translated(given, catalogue=None):
    return translate(given, catalogue or Catalogue())


def user_of(**keys):
    (change,) = translated(request(profile(**keys))).changes
    return change.user_identities


def test_the_published_sample():
    changes, invalid, skipped = translated(SAMPLE)
    assert not invalid
    assert skipped == {Skip.ATTRIBUTE_UPDATE: 1, Skip.UNNAMED_IDENTITY: 1}
    assert [(change.type, change.audience_id, change.audience_name) for change in changes] == [
        ("member_added", 456, "Example Audience Name"),
        ("member_removed", 654, "Example Audience Name 4"),
    ]
    for change in changes:
        assert change.timestamp == 1685499524
        assert list(change.user_identities.items()) == list(SAMPLE_USER.items())


@pytest.mark.parametrize("row", [row for row in Catalogue().by_mparticle_type.items() if row[0] != "mpid"])
def test_every_identity_of_the_sdk_has_its_name(row):
    mparticle_type, name = row
    assert user_of(user_identities=[{"type": mparticle_type, "value": "x"}]) == {name: "x"}


def test_identities_without_a_name_are_left_out_and_counted():
    other = {"type": "smart_tv_id", "value": "secretive"}
    found = translated(request(profile(user_identities=[other, EMAIL], device_identities=[other])))
    assert [change.user_identities for change in found.changes] == [{"Email": "secretive"}]
    assert found.skipped[Skip.UNNAMED_IDENTITY] == 2


def test_of_two_identities_of_one_type_the_first_counts():
    second = {"type": "email", "value": "second"}
    assert user_of(user_identities=[EMAIL, second]) == {"Email": "secretive"}


def test_null_identities_are_dropped():
    assert user_of(user_identities=[{"type": "customer", "value": None}, EMAIL]) == {"Email": "secretive"}


@pytest.mark.parametrize("mpid", [None, ""])
def test_no_mpid(mpid):
    assert "MPID" not in user_of(mpid=mpid)


def test_a_profile_without_identities_is_no_mistake():
    found = translated(request({"audiences": [ADD]}))
    assert [change.user_identities for change in found.changes] == [{}]


def test_a_profile_without_audiences_changes_nothing():
    assert translated(request({"user_identities": [EMAIL]})) == ([], [], {Skip.UNNAMED_IDENTITY: 0})


def test_spelled_names_count():
    catalogue = Catalogue({"Email": "EmailAddress", "MPID": "Id"})
    (change,) = translated(request(profile(mpid="1")), catalogue).changes
    assert change.user_identities == {"EmailAddress": "secretive", "Id": "1"}


WRONG_ENVELOPES = {
    "no object": ([], ["invalid input type"]),
    "no time": ({"user_profiles": []}, ["timestamp_ms: missing data for required field"]),
    "a time as text": (request(timestamp_ms="1"), ["timestamp_ms: not an integer"]),
    "no profiles": ({"timestamp_ms": 1}, ["user_profiles: missing data for required field"]),
    "profiles that are an object": (request(user_profiles={}), ["user_profiles: not a valid list"]),
}


@pytest.mark.parametrize(("envelope", "problems"), WRONG_ENVELOPES.values(), ids=WRONG_ENVELOPES)
def test_a_request_that_is_wrong_as_a_whole(envelope, problems):
    changes, (invalid,), _ = translated(envelope)
    assert not changes
    assert (invalid.problems, invalid.item) == (problems, envelope)


WRONG_PROFILES = {
    "no object": ("secretive", ["invalid input type"]),
    "identities that are an object": (
        profile(user_identities={"email": "secretive"}),
        ["user_identities: not a valid list"],
    ),
    "an identity without a type": (
        profile(user_identities=[{"value": "secretive"}]),
        ["user_identities: missing data for required field"],
    ),
    "an identity that is a number": (
        profile(device_identities=[{"type": "email", "value": 7}]),
        ["device_identities: not a string"],
    ),
    "an MPID that is a number": (profile(mpid=12345), ["mpid: not a string"]),
    "an unknown action": (
        profile(ADD | {"action": "secretive"}),
        ["audiences: action: unknown"],
    ),
    "an audience without a name": (
        profile(ADD | {"audience_name": ""}),
        ["audiences: audience_name: empty"],
    ),
    "an audience ID that is a text": (
        profile(ADD | {"audience_id": "1"}),
        ["audiences: audience_id: not an integer"],
    ),
}


@pytest.mark.parametrize(("wrong", "problems"), WRONG_PROFILES.values(), ids=WRONG_PROFILES)
def test_a_wrong_profile_does_not_hold_up_its_neighbours(wrong, problems):
    found = translated(request(profile(), wrong, profile()))
    assert len(found.changes) == 2
    (invalid,) = found.invalid
    assert (invalid.position, invalid.problems) == (1, problems)
    assert "secretive" not in repr(invalid)


def test_of_a_profile_only_the_wrong_audiences_are_kept():
    wrong = ADD | {"action": "rename"}
    changes, (invalid,), _ = translated(request(profile(ADD, wrong, ADD | {"action": "delete"})))
    assert [change.type for change in changes] == ["member_added", "member_removed"]
    assert invalid.item == profile(wrong)
