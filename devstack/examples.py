"""The demo's registrations, its messages, and the records that must arrive.

The user and the first audience are those of the documentation. The expected records are
written down here, and not made by the code that they check.
"""

import json
from collections.abc import Mapping
from typing import Any, NamedTuple

TIMESTAMP = 1234565788

LOW_ENGAGEMENT = {"audience_id": 123123, "audience_external_name": "LowEngagement"}
FREQUENT_FLYERS = {
    "audience_id": 456456,
    "audience_external_name": "",
    "audience_internal_name": "FrequentFlyers",
}
LAPSED = {"audience_id": 789789, "audience_internal_name": "LapsedTravellers"}

PHILEAS = {
    "CustomerId": "p.fogg138",
    "Email": "",
    "Other": "balloondude83",
    "Other3": "balloongal89",
    "FacebookId": "phileas83",
}
PHILEAS_ON_HIS_PHONE = {**PHILEAS, "GoogleAdvertisingIdentifier": "phileas83"}
PHILEAS_RENAMED = {**PHILEAS, "CustomerId": "p.fogg80"}
PASSEPARTOUT = {"CustomerId": "j.passepartout", "Email": "jean@example.com", "MPID": "7263945107"}
ANONYMOUS = {"MPID": "5098261840"}
AOUDA = {"CustomerId": "a.jeejeebhoy"}
FIX = {"CustomerId": "detective.fix"}


class DeliveryStream(NamedTuple):
    """A stream of the local Firehose."""

    name: str
    region: str


TRAVEL = DeliveryStream("mPTravelAudiences", "us-east-1")
CRM = DeliveryStream("crm-audiences", "eu-west-1")
WIN_BACK = DeliveryStream("win-back", "ap-southeast-2")
STREAMS = (TRAVEL, CRM, WIN_BACK)

ACCESS_KEY_ID = "AKIAIOSFODNN7EXAMPLE"
CONFIGURE_ANALYTICS = ("configure", "analytics")
CONFIGURE_CRM = (
    *("configure", "crm", "--access-key-id", ACCESS_KEY_ID, "--secret-access-key-stdin"),
    "--no-send-remove-on-identity-change",
)


def _connect(
    audience: Mapping[str, Any], configuration: str, stream: DeliveryStream, *settings: str
) -> tuple[str, ...]:
    return (
        *("connect", str(audience["audience_id"]), "--configuration", configuration),
        *("--delivery-stream-name", stream.name, "--region", stream.region, *settings),
    )


CONNECT = (
    _connect(LOW_ENGAGEMENT, "analytics", TRAVEL),
    _connect(FREQUENT_FLYERS, "analytics", TRAVEL),
    _connect(LOW_ENGAGEMENT, "crm", CRM, "--no-forward-email-addresses", "--exclude", "Other3"),
    _connect(FREQUENT_FLYERS, "crm", CRM, "--no-send-anonymous-users"),
    _connect(LAPSED, "analytics", WIN_BACK),
)

Change = dict[str, Any]


def _change(kind: str, audience: Mapping[str, Any], user: dict[str, str], **more: Any) -> Change:
    return {"type": kind, **audience, "timestamp": TIMESTAMP, "user_identities": user, **more}


MESSAGES: tuple[list[Change], ...] = (
    [
        _change("member_added", LOW_ENGAGEMENT, PHILEAS_ON_HIS_PHONE),
        _change("member_removed", LOW_ENGAGEMENT, PHILEAS),
    ],
    [_change("identity_changed", LOW_ENGAGEMENT, PHILEAS_RENAMED, previous_user_identities=PHILEAS)],
    [
        _change("member_added", FREQUENT_FLYERS, PASSEPARTOUT),
        _change("member_added", FREQUENT_FLYERS, ANONYMOUS),
    ],
    [{"type": "audience_deleted", **LOW_ENGAGEMENT, "timestamp": TIMESTAMP}],
)
"""The messages that another app enqueues."""

MESSAGES_IN_OUTAGE: tuple[list[Change], ...] = (
    [_change("member_added", LAPSED, AOUDA), _change("member_added", LAPSED, FIX)],
)


def _record(
    audience_id: int, audience_name: str, is_member: bool, user: Mapping[str, str], **more: bool
) -> str:
    content = {
        "MembershipChangedTimestamp": str(TIMESTAMP),
        "AudienceId": audience_id,
        "AudienceName": audience_name,
        "IsMember": is_member,
        "UserIdentities": user,
        **more,
    }
    return json.dumps(content, separators=(",", ":")) + "\n"


def _without(user: Mapping[str, str], *names: str) -> dict[str, str]:
    return {name: value for name, value in user.items() if name not in names}


REMOVAL = _record(123123, "LowEngagement", False, PHILEAS)
ADDITION = _record(123123, "LowEngagement", True, PHILEAS_RENAMED)
"""The records of an identity change: both, in this order, with nothing between."""

EXCLUDED_FROM_CRM = ("Email", "Other3")
EXPECTED: dict[DeliveryStream, list[str]] = {
    TRAVEL: [
        _record(123123, "LowEngagement", True, PHILEAS_ON_HIS_PHONE),
        _record(123123, "LowEngagement", False, PHILEAS),
        REMOVAL,
        ADDITION,
        _record(456456, "FrequentFlyers", True, PASSEPARTOUT),
        _record(456456, "FrequentFlyers", True, ANONYMOUS),
        _record(123123, "LowEngagement", False, {}, IsDeleted=True),
    ],
    CRM: [
        _record(123123, "LowEngagement", True, _without(PHILEAS_ON_HIS_PHONE, *EXCLUDED_FROM_CRM)),
        _record(123123, "LowEngagement", False, _without(PHILEAS, *EXCLUDED_FROM_CRM)),
        _record(123123, "LowEngagement", True, _without(PHILEAS_RENAMED, *EXCLUDED_FROM_CRM)),
        _record(456456, "FrequentFlyers", True, PASSEPARTOUT),
        _record(123123, "LowEngagement", False, {}, IsDeleted=True),
    ],
}
EXPECTED_AFTER_REPLAY: dict[DeliveryStream, list[str]] = {
    WIN_BACK: [
        _record(789789, "LapsedTravellers", True, AOUDA),
        _record(789789, "LapsedTravellers", True, FIX),
    ],
}
