"""The command `explain`."""

import json

import pytest

NOW = 1_800_000_000
ADDED = {
    "type": "member_added",
    "audience_id": 7,
    "audience_external_name": "Low",
    "timestamp": 1_700_000_000,
    "user_identities": {"MPID": "1", "Email": "phileas@example.com"},
}
RECORD = (
    '{"MembershipChangedTimestamp":"1700000000","AudienceId":7,"AudienceName":"Low","IsMember":true,'
    '"UserIdentities":{"MPID":"1","Email":"phileas@example.com"}}'
)


def explained(operator, change=ADDED):
    return operator.lists("explain", json.dumps(change))


def test_each_connection_is_shown_with_its_exact_record(operator, queues):
    plain = operator.connects(7, "one")
    bare = operator.connects(7, "two", "--no-append-newline", "--no-forward-email-addresses")
    operator.connects(8, "three")
    rows = {row["id"]: row for row in explained(operator)}
    assert rows.keys() == {plain, bare}
    assert rows[plain] == {
        "id": plain,
        "configuration": "main",
        "region": "us-east-1",
        "delivery_stream_name": "one",
        "records": [f"{RECORD}\n"],
        "skipped": [],
    }
    assert rows[bare]["records"] == [RECORD.replace(',"Email":"phileas@example.com"', "")]
    assert queues.changes() == []


def test_a_person_sees_the_connection_and_below_it_the_record(operator):
    connection = operator.connects(7, "one")
    assert operator.runs("explain", "-", stdin=json.dumps(ADDED)).stdout.splitlines() == [
        f"{connection}: one in us-east-1",
        f"  {RECORD}",
    ]


def test_an_identity_change_shows_its_removal_and_its_addition(operator):
    operator.connects(7, "one")
    changed = ADDED | {"type": "identity_changed", "previous_user_identities": {"CustomerId": "c"}}
    (row,) = explained(operator, changed)
    assert [json.loads(record)["IsMember"] for record in row["records"]] == [False, True]


def test_an_identity_change_of_excluded_identities_alone_is_shown_as_unchanged(operator):
    operator.connects(7, "one", "--no-forward-email-addresses")
    changed = ADDED | {"type": "identity_changed", "previous_user_identities": {"MPID": "1", "Email": "a"}}
    (row,) = explained(operator, changed)
    assert (row["records"], row["skipped"]) == ([], ["unchanged"])
    assert "are the same as before" in operator.runs("explain", json.dumps(changed)).stdout


def test_an_audience_without_a_connection_is_named(operator):
    assert (
        "no record (no_connection): the audience has no connection"
        in operator.runs("explain", json.dumps(ADDED)).stdout
    )
    (row,) = explained(operator)
    assert (row["id"], row["records"], row["skipped"]) == (None, [], ["no_connection"])


SKIPPING = {
    "anonymous": ("--no-send-anonymous-users", "--no-forward-email-addresses"),
    "no_identities": ("--no-forward-email-addresses", "--exclude", "MPID"),
}


@pytest.mark.parametrize(("reason", "options"), SKIPPING.items(), ids=SKIPPING)
def test_a_connection_without_a_record_says_why(operator, reason, options):
    operator.connects(7, "one", *options)
    (row,) = explained(operator)
    assert (row["records"], row["skipped"]) == ([], [reason])
    assert f"no record ({reason}): the connection" in operator.runs("explain", json.dumps(ADDED)).stdout


def test_without_a_timestamp_the_time_is_now(operator):
    operator.connects(7, "one")
    (row,) = explained(operator, {key: value for key, value in ADDED.items() if key != "timestamp"})
    assert json.loads(row["records"][0])["MembershipChangedTimestamp"] == str(NOW)


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ("{phileas", "not JSON, at line 1, column 2"),
        (json.dumps([ADDED]), "invalid: invalid input type"),
        (json.dumps(ADDED | {"timestamp": 1_700_000_000_000}), "milliseconds?"),
    ],
)
def test_an_invalid_change_is_refused_without_its_values(operator, change, problem):
    message = operator.fails("explain", change)
    assert problem in message
    assert "phileas" not in message
