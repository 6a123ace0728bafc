"""The bytes that a stream receives, and what each setting makes of them."""

import json

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.changes import Change
from schemas.identities import Catalogue
from schemas.records import DELETION, KNOWN_NAME_LENGTH, RECORD, Record, Skip, Stamp, render
from schemas.settings import Configuration, Connection

USER = {
    "CustomerId": "p.fogg138",
    "Email": "",
    "Other": "balloondude83",
    "Other3": "balloongal89",
    "FacebookId": "phileas83",
    "GoogleAdvertisingIdentifier": "phileas83",
}
HEAD = b'{"MembershipChangedTimestamp":"1234565788","AudienceId":123123,"AudienceName":"LowEngagement",'


def change(kind="member_added", user=USER, previous=None):
    return Change(kind, 123123, "LowEngagement", None, 1234565788, user, previous or {})


def projection(catalogue=None, send_remove_on_identity_change=True, **settings):
    configuration = Configuration("main", send_remove_on_identity_change=send_remove_on_identity_change)
    return Connection(123123, "main", "travel", **settings).projection(
        configuration, catalogue or Catalogue()
    )


def lines(change, projection):
    rendered = render(change, projection)
    assert not rendered.skipped
    return b"".join(rendered.lines)


def sent_identities(user, **settings):
    return json.loads(lines(change(user=user), projection(**settings)))["UserIdentities"]


def test_the_record_of_the_documented_member_added():
    assert lines(change(), projection()) == HEAD + (
        b'"IsMember":true,"UserIdentities":{"CustomerId":"p.fogg138","Email":"","Other":"balloondude83",'
        b'"Other3":"balloongal89","FacebookId":"phileas83","GoogleAdvertisingIdentifier":"phileas83"}}\n'
    )


def test_the_record_of_the_documented_member_removed():
    user = {name: value for name, value in USER.items() if name != "GoogleAdvertisingIdentifier"}
    assert lines(change("member_removed", user), projection()) == HEAD + (
        b'"IsMember":false,"UserIdentities":{"CustomerId":"p.fogg138","Email":"","Other":"balloondude83",'
        b'"Other3":"balloongal89","FacebookId":"phileas83"}}\n'
    )


def test_a_deleted_audience_is_a_record_without_identities_that_ends_with_is_deleted():
    deleted = change("audience_deleted", user={})
    expected = HEAD + b'"IsMember":false,"UserIdentities":{},"IsDeleted":true}\n'
    assert lines(deleted, projection()) == expected
    assert lines(deleted, projection(send_anonymous_users=False)) == expected


def test_an_identity_change_is_a_removal_and_the_addition_after_it():
    removal, addition = render(change("identity_changed", {"Email": "b"}, {"Email": "a"}), projection()).lines
    assert removal == HEAD + b'"IsMember":false,"UserIdentities":{"Email":"a"}}\n'
    assert addition == HEAD + b'"IsMember":true,"UserIdentities":{"Email":"b"}}\n'


def test_without_send_remove_on_identity_change_there_is_only_the_addition():
    seen = projection(send_remove_on_identity_change=False)
    changed = change("identity_changed", {"Email": "b"}, {"Email": "a"})
    assert lines(changed, seen) == HEAD + b'"IsMember":true,"UserIdentities":{"Email":"b"}}\n'


def test_append_newline_can_be_turned_off():
    assert lines(change(), projection(append_newline=False)) + b"\n" == lines(change(), projection())


SWITCHES = {
    "forward_email_addresses": "Email",
    "forward_customer_ids": "CustomerId",
    "forward_idfas": "AppleAdvertisingIdentifier",
    "forward_google_advertising_ids": "GoogleAdvertisingIdentifier",
}


@pytest.mark.parametrize(("setting", "name"), SWITCHES.items())
def test_a_forwarding_switch_excludes_its_identity_and_no_other(setting, name):
    everything = dict.fromkeys(sorted(Catalogue().names), "x")
    assert sent_identities(everything) == everything
    assert everything.keys() - sent_identities(everything, **{setting: False}).keys() == {name}


@pytest.mark.parametrize("name", sorted(Catalogue().names))
def test_any_identity_can_be_excluded(name):
    everything = dict.fromkeys(sorted(Catalogue().names), "x")
    assert everything.keys() - sent_identities(everything, identities_to_exclude=(name,)).keys() == {name}


def test_switches_and_exclusions_go_by_the_standard_name_of_an_identity_with_a_configured_one():
    catalogue = Catalogue({"Email": "EmailAddress", "Other": "Login"})
    seen = projection(catalogue, forward_email_addresses=False, identities_to_exclude=("Other",))
    user = {"EmailAddress": "a", "Login": "b", "CustomerId": "c"}
    assert json.loads(lines(change(user=user), seen))["UserIdentities"] == {"CustomerId": "c"}


def test_anonymous_users_are_sent_by_default():
    assert sent_identities({"MPID": "1"}) == {"MPID": "1"}


def test_anonymous_users_can_be_left_out():
    assert render(change(user={"MPID": "1"}), projection(send_anonymous_users=False)) == (
        (),
        (Skip.ANONYMOUS,),
    )


def test_a_user_is_anonymous_who_is_left_with_an_mpid_alone():
    seen = projection(send_anonymous_users=False, forward_email_addresses=False)
    assert render(change(user={"MPID": "1", "Email": "a"}), seen).skipped == (Skip.ANONYMOUS,)


@pytest.mark.parametrize("user", [{"MPID": "1", "Email": ""}, {"Email": ""}, {"MPID": "", "Other": ""}])
def test_an_empty_value_identifies_nobody_so_the_user_is_anonymous(user):
    assert render(change(user=user), projection(send_anonymous_users=False)).skipped == (Skip.ANONYMOUS,)
    assert sent_identities(user) == user


@pytest.mark.parametrize("user", [{"MPID": "1", "Email": "a"}, {"Email": "a", "Other": ""}])
def test_a_user_with_a_value_of_any_other_identity_is_not_anonymous(user):
    assert sent_identities(user, send_anonymous_users=False) == user


def test_anonymity_goes_by_the_configured_name_of_the_mpid():
    seen = projection(Catalogue({"MPID": "Id"}), send_anonymous_users=False)
    assert render(change(user={"Id": "1"}), seen).skipped == (Skip.ANONYMOUS,)


def test_a_user_left_without_identities_is_never_sent():
    seen = projection(forward_email_addresses=False)
    assert render(change(user={"Email": "a"}), seen) == ((), (Skip.NO_IDENTITIES,))
    assert render(change(user={}), projection()).skipped == (Skip.NO_IDENTITIES,)


def test_an_identity_change_that_leaves_one_user_without_identities_sends_the_other():
    seen = projection(forward_email_addresses=False)
    rendered = render(change("identity_changed", {"Other": "b"}, {"Email": "a"}), seen)
    assert rendered.skipped == (Skip.NO_IDENTITIES,)
    assert [json.loads(line)["IsMember"] for line in rendered.lines] == [True]


STAMP = Stamp("6ba7b810-9dad-11d1-80b4-00c04fd430c8", 1_700_000_000_000_000)
METADATA = (
    b',"ChangeId":"6ba7b8109dad11d180b400c04fd430c8-0000000%d",'
    b'"SequenceNumber":"17000000000000000000000%d","SchemaVersion":1}\n'
)


def test_with_metadata_a_record_ends_with_three_more_keys():
    (line,) = render(change(), projection(include_metadata=True), STAMP, 2).lines
    assert line == lines(change(), projection())[:-2] + METADATA % (4, 4)
    assert len(json.loads(line)["SequenceNumber"]) == 24


def test_with_metadata_a_deletion_ends_with_the_same_keys():
    deleted = change("audience_deleted", user={})
    (line,) = render(deleted, projection(include_metadata=True), STAMP, 0).lines
    assert line == HEAD + b'"IsMember":false,"UserIdentities":{},"IsDeleted":true' + METADATA % (0, 0)


@pytest.mark.parametrize("send_removal", [True, False])
def test_the_addition_of_an_identity_change_stands_behind_its_removal(send_removal):
    seen = projection(include_metadata=True, send_remove_on_identity_change=send_removal)
    rendered = render(change("identity_changed", {"Email": "b"}, {"Email": "a"}), seen, STAMP, 1).lines
    places = [json.loads(line)["SequenceNumber"][-1] for line in rendered]
    assert places == (["2", "3"] if send_removal else ["3"])


def test_with_metadata_the_newline_can_be_turned_off():
    (line,) = render(change(), projection(include_metadata=True, append_newline=False), STAMP).lines
    assert line.endswith(b'"SchemaVersion":1}')


BEFORE, AFTER = {"CustomerId": "c", "Email": "old"}, {"CustomerId": "c", "Email": "new"}


@pytest.mark.parametrize("send_removal", [True, False])
def test_an_identity_change_of_an_excluded_identity_is_skipped_as_unchanged(send_removal):
    seen = projection(forward_email_addresses=False, send_remove_on_identity_change=send_removal)
    assert render(change("identity_changed", AFTER, BEFORE), seen) == ((), (Skip.UNCHANGED,))


def test_an_identity_change_of_a_forwarded_identity_is_sent_whatever_else_is_excluded():
    seen = projection(forward_customer_ids=False)
    assert len(render(change("identity_changed", AFTER, BEFORE), seen).lines) == 2


def test_an_identity_change_of_which_nothing_is_forwarded_leaves_no_identities():
    seen = projection(forward_email_addresses=False)
    rendered = render(change("identity_changed", {"Email": "b"}, {"Email": "a"}), seen)
    assert rendered == ((), (Skip.NO_IDENTITIES, Skip.NO_IDENTITIES))


@given(st.dictionaries(st.sampled_from(sorted(Catalogue().names)), st.text(), min_size=1), st.text())
def test_any_record_is_one_line_of_json_that_reads_back_the_same(user, name):
    (line,) = render(Change("member_added", 1, name, None, 7, user, {}), projection()).lines
    assert line.count(b"\n") == 1
    record = json.loads(line)
    assert list(record["UserIdentities"].items()) == list(user.items())
    assert (record["AudienceName"], record["MembershipChangedTimestamp"]) == (name, "7")


NAMES = st.text() | st.sampled_from(
    [
        '"UserIdentities":{}',
        '","UserIdentities":{},"',
        "{}",
        "100 % %d %b %%",
        '"MembershipChangedTimestamp":"0"',
        "x" * KNOWN_NAME_LENGTH,
        "x" * (KNOWN_NAME_LENGTH + 1),
    ]
)


@given(
    st.sampled_from([("member_added", True), ("member_removed", False), ("audience_deleted", False)]),
    NAMES,
    st.integers(0, 2**40),
    st.integers(-(2**63), 2**63 - 1),
    st.dictionaries(st.sampled_from(sorted(Catalogue().names)), st.text(), min_size=1),
)
def test_a_record_is_the_dump_of_its_schema(kind, name, timestamp, audience_id, user):
    kind, is_member = kind
    (line,) = render(
        Change(kind, audience_id, name, None, timestamp, user, {}), projection(append_newline=False)
    ).lines
    schema, sent = (DELETION, {}) if kind == "audience_deleted" else (RECORD, user)
    assert line == orjson.dumps(schema.dump(Record(timestamp, audience_id, name, is_member, sent)))
