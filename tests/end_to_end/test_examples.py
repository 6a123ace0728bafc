"""The documented examples, byte for byte."""

import pytest
from waiting import eventually

USER = (
    '"UserIdentities":{"CustomerId":"p.fogg138","Email":"","Other":"balloondude83",'
    '"Other3":"balloongal89","FacebookId":"phileas83"'
)
HEAD = '{"MembershipChangedTimestamp":"1234565788","AudienceId":123123,"AudienceName":"LowEngagement",'
ADDED = HEAD + f'"IsMember":true,{USER},"GoogleAdvertisingIdentifier":"phileas83"}}}}\n'
REMOVED = HEAD + f'"IsMember":false,{USER}}}}}\n'
DELETED = HEAD + '"IsMember":false,"UserIdentities":{},"IsDeleted":true}\n'
CHANGED_FROM = HEAD + '"IsMember":false,"UserIdentities":{"CustomerId":"p.fogg138"}}\n'
CHANGED_TO = HEAD + '"IsMember":true,"UserIdentities":{"CustomerId":"phileas83","Email":""}}\n'

IDENTITIES = {
    "CustomerId": "p.fogg138",
    "Email": "",
    "Other": "balloondude83",
    "Other3": "balloongal89",
    "FacebookId": "phileas83",
}


@pytest.fixture
def documented(documented_audience, stack):
    """Enqueue changes and return the records that the documented audience's stream receives."""

    def forward(*changes, records=1):
        before = len(documented_audience.received())
        stack.send(*(documented_audience.change(**change) for change in changes))
        eventually(lambda: len(documented_audience.received()) >= before + records)
        return b"".join(documented_audience.received()[before:]).decode()

    return forward


def test_the_documented_member_added_arrives(documented):
    user = IDENTITIES | {"GoogleAdvertisingIdentifier": "phileas83"}
    assert documented({"kind": "member_added", "user_identities": user}) == ADDED


def test_the_documented_member_removed_arrives(documented):
    assert documented({"kind": "member_removed", "user_identities": IDENTITIES}) == REMOVED


def test_the_documented_identity_change_arrives(documented):
    before, after = {"CustomerId": "p.fogg138"}, {"CustomerId": "phileas83", "Email": ""}
    change = {"kind": "identity_changed", "previous_user_identities": before, "user_identities": after}
    assert documented(change, records=2) == CHANGED_FROM + CHANGED_TO


def test_a_deleted_audience_arrives(documented):
    assert documented({"kind": "audience_deleted"}) == DELETED


def test_changes_of_one_message_keep_their_order(documented):
    added = {
        "kind": "member_added",
        "user_identities": IDENTITIES | {"GoogleAdvertisingIdentifier": "phileas83"},
    }
    removed = {"kind": "member_removed", "user_identities": IDENTITIES}
    forwarded = documented(added, removed, added, {"kind": "audience_deleted"}, records=4)
    assert forwarded == ADDED + REMOVED + ADDED + DELETED
