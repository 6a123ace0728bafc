"""Requests of mParticle's Firehose SDK, as changes."""

import pytest

from schemas.identities import ROWS, Catalogue
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
TIMESTAMP_MS = 1_700_000_000_000
ADD = {"audience_id": 1, "audience_name": "Name", "action": "add"}
EMAIL = {"type": "email", "value": "secretive"}


def request(*profiles, **keys):
    return {"timestamp_ms": TIMESTAMP_MS, "user_profiles": list(profiles)} | keys


def profile(*audiences, **keys):
    return {"user_identities": [EMAIL], "audiences": list(audiences or [ADD])} | keys


def translated(given, catalogue=None):
    return translate(given, catalogue or Catalogue())


def user_of(**keys):
    (user,) = users_of(**keys)
    return user


def users_of(**keys):
    return [change.user_identities for change in translated(request(profile(**keys))).changes]


def identity(kind, value, encoding="raw"):
    return {"type": kind, "encoding": encoding, "value": value}


def test_the_published_sample_request_becomes_its_changes():
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


SDK_USER_TYPES = {
    *("customer", "email", "facebook", "google", "microsoft", "twitter", "yahoo"),
    *("other", "other2", "other3", "other4", "other5", "other6", "other7", "other8", "other9", "other10"),
    *("mobile_number", "phone_number_2", "phone_number_3"),
}
"""`UserIdentity.Type` of the SDK."""


def test_every_user_identity_of_the_sdk_is_in_the_catalogue():
    types = {row.mparticle for row in ROWS if row.kind == "user" and row.mparticle}
    assert types == SDK_USER_TYPES | {"mpid"}


@pytest.mark.parametrize("absent", [{}, {"value": None}], ids=["missing", "null"])
def test_an_identity_without_a_value_is_left_out(absent):
    assert user_of(user_identities=[{"type": "customer", "encoding": "raw"} | absent, EMAIL]) == {
        "Email": "secretive"
    }


RAW, HASHED = identity("email", "a@example.com"), identity("email", "0cc175b9", "md5")
EMPTY = identity("email", "")
NEITHER = {"type": "email", "value": "unencoded"}
BEST = {
    "raw before hashed": ([HASHED, RAW], "a@example.com"),
    "raw before hashed, listed first": ([RAW, HASHED], "a@example.com"),
    "non-empty before empty": ([EMPTY, RAW], "a@example.com"),
    "a hashed value before an empty one": ([EMPTY, HASHED], "0cc175b9"),
    "the first of two raw ones": ([identity("email", "first"), RAW], "first"),
    "a value without an encoding is raw": ([HASHED, NEITHER], "unencoded"),
}


@pytest.mark.parametrize(("identities", "best"), BEST.values(), ids=BEST)
def test_of_several_values_of_a_user_identity_one_is_forwarded_and_the_others_are_counted(identities, best):
    changes, _, skipped = translated(request(profile(user_identities=identities)))
    assert [change.user_identities for change in changes] == [{"Email": best}]
    assert skipped == {Skip.FURTHER_VALUE: 1}


def test_an_identity_listed_twice_with_the_same_value_is_one():
    changes, _, skipped = translated(request(profile(user_identities=[EMAIL, EMAIL])))
    assert [change.user_identities for change in changes] == [{"Email": "secretive"}]
    assert not skipped


def test_an_empty_value_is_forwarded_where_there_is_no_other():
    assert user_of(user_identities=[EMPTY]) == {"Email": ""}


def test_each_further_value_of_a_device_id_makes_a_further_record_of_the_user():
    devices = [
        identity("ios_advertising_id", "hashed", "sha256"),
        identity("ios_advertising_id", "one"),
        identity("android_id", "three"),
        identity("ios_advertising_id", "two"),
    ]
    common = {"Email": "secretive", "AndroidId": "three", "MPID": "1"}
    assert users_of(device_identities=devices, mpid="1") == [
        common | {"AppleAdvertisingIdentifier": value} for value in ("one", "two", "hashed")
    ]


def test_a_profile_of_more_devices_and_audiences_than_a_user_has_is_invalid():
    devices = [identity("android_id", f"secretive-{number}") for number in range(101)]
    audiences = [ADD | {"audience_id": number} for number in range(1, 101)]
    found = translated(request(profile(*audiences, device_identities=devices), profile(ADD)))
    assert [invalid.position for invalid in found.invalid] == [0]
    assert found.invalid[0].problems == ["101 users in 100 audiences: at most 10000 changes"]
    assert len(found.changes) == 1


def test_an_empty_device_id_makes_no_further_record():
    devices = [identity("android_id", ""), identity("android_id", "one")]
    changes, _, skipped = translated(request(profile(device_identities=devices)))
    assert [change.user_identities["AndroidId"] for change in changes] == ["one"]
    assert skipped == {Skip.FURTHER_VALUE: 1}


def test_the_records_of_a_user_with_two_devices_are_adjacent_in_each_audience():
    devices = [identity("android_id", "one"), identity("android_id", "two")]
    other = ADD | {"audience_id": 2, "action": "delete"}
    changes = translated(request(profile(ADD, other, device_identities=devices))).changes
    assert [(change.audience_id, change.user_identities["AndroidId"]) for change in changes] == [
        (1, "one"),
        (1, "two"),
        (2, "one"),
        (2, "two"),
    ]


MEMBERSHIP = "audience_membership_change_request"
SUBSCRIPTION = {
    "type": "audience_subscription_request",
    "timestamp_ms": TIMESTAMP_MS,
    "audience_id": 1,
    "audience_name": "Name",
    "action": "remove",
}


@pytest.mark.parametrize("profiles", [{}, {"user_profiles": None}, {"user_profiles": []}])
def test_a_verification_request_is_no_error_and_counts_nothing(profiles):
    assert translated({"type": MEMBERSHIP, "timestamp_ms": TIMESTAMP_MS} | profiles) == ([], [], {})


def test_a_removed_subscription_is_the_deletion_of_its_audience():
    (change,), invalid, skipped = translated(SUBSCRIPTION)
    assert (change.type, change.audience_id, change.audience_name, change.timestamp) == (
        "audience_deleted",
        1,
        "Name",
        TIMESTAMP_MS // 1000,
    )
    assert not (invalid or skipped or change.user_identities)


@pytest.mark.parametrize("action", ["add", "update"])
def test_a_new_or_changed_subscription_is_skipped_and_counted(action):
    assert translated(SUBSCRIPTION | {"action": action}) == ([], [], {Skip.SUBSCRIPTION: 1})


WRONG_SUBSCRIPTIONS = {
    "an unknown action": ({"action": "secretive"}, ["action: unknown"]),
    "no name": ({"audience_name": ""}, ["audience_name: empty"]),
    "an ID that is a text": ({"audience_id": "secretive"}, ["audience_id: not an integer"]),
    "a time in seconds": ({"timestamp_ms": 7}, ["timestamp_ms: not Unix milliseconds: seconds?"]),
}


@pytest.mark.parametrize(("wrong", "problems"), WRONG_SUBSCRIPTIONS.values(), ids=WRONG_SUBSCRIPTIONS)
def test_a_wrong_subscription_request_is_invalid(wrong, problems):
    changes, (invalid,), _ = translated(SUBSCRIPTION | wrong)
    assert not changes
    assert (invalid.problems, invalid.item) == (problems, SUBSCRIPTION | wrong)
    assert "secretive" not in repr(invalid)


NO_MILLISECONDS = {
    "seconds": (1_700_000_000, "seconds?"),
    "zero": (0, "seconds?"),
    "before 1970": (-1, "before 1970"),
    "microseconds": (1_700_000_000_000_000, "microseconds?"),
    "nanoseconds": (1_700_000_000_000_000_000, "nanoseconds?"),
}


@pytest.mark.parametrize(("timestamp_ms", "hint"), NO_MILLISECONDS.values(), ids=NO_MILLISECONDS)
def test_a_time_that_cannot_be_milliseconds_is_refused_with_a_hint(timestamp_ms, hint):
    changes, (invalid,), _ = translated(request(profile(), timestamp_ms=timestamp_ms))
    assert not changes
    assert invalid.problems == [f"timestamp_ms: not Unix milliseconds: {hint}"]


@pytest.mark.parametrize("mpid", [None, ""])
def test_a_profile_without_an_mpid_has_no_mpid_identity(mpid):
    assert "MPID" not in user_of(mpid=mpid)


def test_a_profile_without_identities_is_no_mistake():
    found = translated(request({"audiences": [ADD]}))
    assert [change.user_identities for change in found.changes] == [{}]


def test_a_profile_without_audiences_changes_nothing():
    assert translated(request({"user_identities": [EMAIL]})) == ([], [], {})


def test_translated_changes_bear_configured_names():
    catalogue = Catalogue({"Email": "EmailAddress", "MPID": "Id"})
    (change,) = translated(request(profile(mpid="1")), catalogue).changes
    assert change.user_identities == {"EmailAddress": "secretive", "Id": "1"}


WRONG_ENVELOPES = {
    "no object": ([], ["invalid input type"]),
    "another request of the SDK": (
        request(type="event_processing_request"),
        ["type: unknown"],
    ),
    "another request without profiles": (
        {"type": "event_processing_request", "timestamp_ms": TIMESTAMP_MS},
        ["type: unknown", "user_profiles: missing data for required field"],
    ),
    "no time": ({"user_profiles": []}, ["timestamp_ms: missing data for required field"]),
    "a time as text": (request(timestamp_ms="1"), ["timestamp_ms: not an integer"]),
    "no profiles": ({"timestamp_ms": TIMESTAMP_MS}, ["user_profiles: missing data for required field"]),
    "profiles that are an object": (request(user_profiles={}), ["user_profiles: not a valid list"]),
}


@pytest.mark.parametrize(("envelope", "problems"), WRONG_ENVELOPES.values(), ids=WRONG_ENVELOPES)
def test_a_request_that_is_wrong_as_a_whole_is_one_invalid_item(envelope, problems):
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
