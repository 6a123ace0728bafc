"""Whatever a message holds, whatever Firehose refuses and whichever batch goes first, last words are true."""

import json
from collections import Counter
from dataclasses import replace
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas.changes import Change, DeviceChange
from schemas.identities import Catalogue
from schemas.memberships import Memberships
from schemas.quotas import Quota
from schemas.records import EXAMPLE_STAMP, Skip, Stamp, render
from schemas.settings import Configuration, Connection
from schemas.users import Users
from tasks.fan_out import Part, fan_out
from worker.firehose.deliveries import following_delivery, is_delivery, make_delivery, records_of
from worker.firehose.groups import as_group, size_of
from worker.firehose.put import put
from worker.queues import Stream
from worker.state.registry import Route, Snapshot
from worker.state.run_counts import Skipped

STREAM = Stream("main", "eu-central-1", "travel")
EU_CENTRAL_1 = Quota(requests=1_000, records=100_000, bytes=2**20)
NARROW = Quota(requests=10, records=30, bytes=10_000)
AUDIENCES = (1, 2)
UNCONNECTED = 3


def snapshot(quota=EU_CENTRAL_1, audiences=AUDIENCES, **connection_settings):
    routes = {}
    for audience_id in audiences:
        connection = Connection(audience_id, "main", STREAM.name, STREAM.region, **connection_settings)
        projection = connection.projection(Configuration("main"), Catalogue())
        routes[audience_id] = (Route(f"{audience_id}-a", STREAM, projection, connection.aggregate_records),)
    return Snapshot(
        version="1",
        configurations={},
        connections={},
        routes=routes,
        streams=frozenset([STREAM]),
        corrupt=frozenset(),
        quotas={STREAM: quota},
        region_quotas={},
    )


def change(kind, user="", previous=None, audience_id=1):
    before = {} if previous is None else {"CustomerId": previous}
    after = {} if kind == "audience_deleted" else {"CustomerId": user}
    return Change(kind, audience_id, "Name", None, 7, after, before)


def added(user, audience_id=1):
    return change("member_added", user, audience_id=audience_id)


def removed(user, audience_id=1):
    return change("member_removed", user, audience_id=audience_id)


def deliveries(changes, registry):
    streams, _ = fan_out([Part(changes, EXAMPLE_STAMP)], registry, Catalogue().names_by_precedence)
    return [
        make_delivery(stream, chain, connection_ids)
        for stream, (batches, connection_ids) in streams.items()
        for chain in batches
    ]


class RefusingFirehose:
    """Refuses some records of each call, and keeps the others in the order in which they arrive."""

    def __init__(self, random, refused_share):
        self._random = random
        self._refused_share = refused_share
        self.records = []

    def put_record_batch(self, DeliveryStreamName, Records):  # noqa: N803 boto3's own names
        assert len(Records) <= 500
        return {"RequestResponses": [self._answer(record["Data"]) for record in Records]}

    def _answer(self, data):
        if self._random.random() < self._refused_share:
            return {"ErrorCode": "ServiceUnavailableException"}
        self.records += [json.loads(line) for line in data.decode().splitlines()]
        return {"RecordId": "1"}


def deliver_in_any_order(waiting, random, refused_share):
    """What a stream has received when all is delivered, by workers that take any waiting message."""
    firehose = RefusingFirehose(random, refused_share)
    while waiting:
        kwargs = waiting.pop(random.randrange(len(waiting)))
        # As it is read from a broker.
        kwargs = json.loads(json.dumps(kwargs))
        assert is_delivery(kwargs)
        outcome = put(firehose, kwargs["delivery_stream_name"], kwargs["records"])
        if outcome.remaining:
            waiting.append({**kwargs, "records": outcome.remaining})
        elif following := following_delivery(kwargs):
            waiting.append(following)
    return firehose.records


def last_words(records):
    """By audience and user, whether the last record says that the user is a member."""
    words = {}
    for record in records:
        audience_id = record["AudienceId"]
        if record.get("IsDeleted"):
            words = {key: is_member for key, is_member in words.items() if key[0] != audience_id}
            words[audience_id, None] = False
        else:
            words[audience_id, record["UserIdentities"]["CustomerId"]] = record["IsMember"]
    return words


def true_words(changes):
    """The same, of the changes themselves in their order."""
    records = []
    for change in changes:
        common = {"AudienceId": change.audience_id}
        if change.type == "audience_deleted":
            records.append(common | {"IsDeleted": True})
            continue
        if change.previous_user_identities == change.user_identities:
            continue  # Nothing changed, so nothing is sent.
        if change.previous_user_identities:
            records.append(common | {"IsMember": False, "UserIdentities": change.previous_user_identities})
        is_member = change.type != "member_removed"
        records.append(common | {"IsMember": is_member, "UserIdentities": change.user_identities})
    return last_words(records)


def check_last_words(changes, registry, seed, refused_share):
    waiting = deliveries(changes, registry)
    expected_records = sum(map(records_of, waiting))
    received = deliver_in_any_order(waiting, Random(seed), refused_share)
    assert last_words(received) == true_words(changes)
    assert len(received) >= expected_records


USER = st.sampled_from("abcd")
AUDIENCE = st.sampled_from(AUDIENCES)
CHANGE = st.one_of(
    st.builds(added, USER, AUDIENCE),
    st.builds(removed, USER, AUDIENCE),
    st.builds(change, st.just("identity_changed"), USER, USER, AUDIENCE),
    st.builds(change, st.just("audience_deleted"), audience_id=AUDIENCE),
)


@settings(deadline=None, max_examples=60)
@given(
    st.lists(CHANGE, max_size=40), st.sampled_from([EU_CENTRAL_1, NARROW]), st.integers(), st.floats(0, 0.6)
)
def test_any_interleaving_and_any_refusals_leave_each_user_s_last_record_true(changes, quota, seed, share):
    check_last_words(changes, snapshot(quota), seed, share)


@pytest.mark.parametrize("seed", range(5))
def test_a_user_added_first_and_removed_last_of_600_changes_ends_removed(seed):
    changes = [added("u"), *(added(f"other-{number}") for number in range(598)), removed("u")]
    assert len(deliveries(changes, snapshot(audiences=(1,)))) > 1
    check_last_words(changes, snapshot(), seed, 0.3)


@pytest.mark.parametrize("seed", range(3))
def test_400_changes_of_one_user_end_as_the_last_one_says_with_30_percent_refused(seed):
    check_last_words([added("u"), removed("u")] * 200, snapshot(), seed, 0.3)


@pytest.mark.parametrize("seed", range(3))
def test_200_users_each_added_and_removed_end_removed_whatever_is_refused(seed):
    changes = [make(f"user-{number}") for number in range(200) for make in (added, removed)]
    check_last_words(changes, snapshot(), seed, 0.3)


def test_a_group_that_no_call_can_take_arrives_in_its_order():
    changes = [make("u") for _ in range(400) for make in (added, removed)]
    (kwargs,) = deliveries(changes, snapshot())
    assert (len(kwargs["records"]), len(kwargs["then"]), records_of(kwargs)) == (1, 1, 800)
    check_last_words(changes, snapshot(), 1, 0.01)


@pytest.mark.parametrize("seed", range(5))
def test_neither_an_addition_before_nor_one_after_overtakes_the_end_of_its_audience(seed):
    before = [added(f"before-{number}") for number in range(700)]
    after = [added(f"after-{number}") for number in range(700)]
    changes = [*before, change("audience_deleted"), *after]
    check_last_words(changes, snapshot(), seed, 0.3)


def test_the_end_of_an_audience_of_which_a_message_tells_nothing_else_goes_with_the_other_records():
    changes = [change("audience_deleted"), *(added(str(number), audience_id=2) for number in range(5))]
    (kwargs,) = deliveries(changes, snapshot())
    assert len(kwargs["records"]) == 6
    assert "then" not in kwargs


def test_the_batches_of_a_chain_keep_their_stream_s_quota():
    changes = [added("a"), change("audience_deleted"), *(added(str(number)) for number in range(10))]
    (kwargs,) = deliveries(changes, snapshot(NARROW))
    assert [size_of(groups).firehose_records for groups in [kwargs["records"], *kwargs["then"]]] == [
        1, 1, 3, 3, 3, 1,
    ]  # fmt: skip


def test_a_user_whose_identity_changes_is_in_one_group_with_the_user_of_before():
    changes = [added("old"), added("x"), change("identity_changed", "new", previous="old"), removed("new")]
    (kwargs,) = deliveries(changes, snapshot())
    groups = [
        [
            json.loads(line)["UserIdentities"]["CustomerId"]
            for line in ([group] if isinstance(group, str) else group)
        ]
        for group in kwargs["records"]
    ]
    assert groups == [["old", "old", "new", "new"], ["x"]]


def test_streams_that_receive_the_same_share_their_batches_and_have_connections_of_their_own():
    both, alike, one, narrow = (Stream("main", "eu-central-1", name) for name in ("b", "a", "o", "n"))
    registry = snapshot()
    routes = {
        audience_id: tuple(
            replace(route, stream=stream, connection_id=f"{audience_id}-{stream.name}")
            for stream in (both, alike, one, narrow)
            if (stream, audience_id) != (one, 2)
        )
        for audience_id, (route,) in registry.routes.items()
    }
    registry = replace(registry, routes=routes, quotas={narrow: NARROW})
    changes = [added("u"), added("u", audience_id=2), added("v")]
    streams, _ = fan_out([Part(changes, EXAMPLE_STAMP)], registry, Catalogue().names_by_precedence)
    assert streams[both].batches is streams[alike].batches
    assert len({id(found.batches) for found in streams.values()}) == 3
    assert streams[both].connection_ids == {1: "1-b", 2: "2-b"}
    assert streams[alike].connection_ids == {1: "1-a", 2: "2-a"}
    assert [found.batches.records for found in map(streams.get, (both, alike, one, narrow))] == [3, 3, 2, 3]


AMPLE = Quota(requests=10**6, records=10**6, bytes=10**10)
PROJECTIONS = [
    {},
    {"include_metadata": True},
    {"append_newline": False},
    {"forward_customer_ids": False},
    {"send_anonymous_users": False},
]
PEOPLE = st.dictionaries(
    st.sampled_from(["MPID", "CustomerId", "Email"]),
    st.sampled_from(["", "a", "ä", "%", '},"",{']),
    max_size=3,
)
EVENTS = (
    st.sampled_from(["member_added", "member_removed", "identity_changed"]),
    st.sampled_from([*AUDIENCES, UNCONNECTED]),
    st.sampled_from(["Name", "100 %"]),
    st.sampled_from([7, 8]),
)
CHANGES = st.lists(
    st.builds(Change, *EVENTS, PEOPLE, PEOPLE)
    | st.builds(DeviceChange, *EVENTS, PEOPLE, first_device_identities=PEOPLE),
    max_size=12,
)


@given(CHANGES, st.sampled_from(PROJECTIONS), st.integers(1, 3), st.integers(0, 3))
def test_the_groups_of_a_stream_are_the_records_of_each_user_one_change_after_the_other(
    changes, connection_settings, messages, condensed
):
    registry = snapshot(AMPLE, **connection_settings)
    names = Catalogue().names_by_precedence
    parts = [
        Part(changes[number::messages], Stamp(f"message-{number}", number)) for number in range(messages)
    ]
    users = Users([change for part in parts for change in part.changes], names)
    expected, skipped = {}, Counter()
    for part in parts:
        for position, change in enumerate(part.changes):
            if change.audience_id == UNCONNECTED:
                skipped[Skipped(None, UNCONNECTED, Skip.NO_CONNECTION)] += 1
                continue
            (route,) = registry.routes[change.audience_id]
            lines, skips = render(change, route.projection, part.stamp, position)
            if lines:
                expected.setdefault(users.user_of(change), []).extend(line.decode() for line in lines)
            skipped.update(Skipped(STREAM, change.audience_id, skip) for skip in skips)

    for number, part in enumerate(parts[:condensed]):
        parts[number] = part._replace(content=Memberships.of(part.changes, names) or part.changes)
    streams, counted = fan_out(parts, registry, names)

    assert counted == skipped
    groups = [group for found in streams.values() for (batch,) in found.batches for group in batch.groups]
    assert groups == [as_group(lines) for lines in expected.values()]
