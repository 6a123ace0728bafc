"""From changes to batches in the streams' queues."""

import json

import pytest
from little_worker import LittleWorker

from schemas.records import Skip
from worker.config import read_settings
from worker.queues import CHANGES_QUEUE, ENQUEUED_AT_HEADER, SEQUENCE_HEADER
from worker.services import Services
from worker.state.idempotency import COMPLETED_ATTEMPTS, SEQUENCE
from worker.state.registry import CONNECTIONS, VERSION

MEGABYTE = 10**6


@pytest.fixture(params=["alone", "redis", "in columns", "rabbitmq"])
def broker(request):
    """Each message of changes is run alone, or in runs as Redis and RabbitMQ let them."""
    return request.param


@pytest.fixture
def worker(request, app, clients, broker):
    return LittleWorker(app) if broker == "alone" else request.getfixturevalue("run_worker")


ALONE = pytest.mark.parametrize("broker", ["alone"], indirect=True)


def added(audience_id=1, **identities):
    return {
        "type": "member_added",
        "audience_id": audience_id,
        "audience_external_name": "Name",
        "timestamp": 7,
        "user_identities": identities or {"CustomerId": "secretive"},
    }


def removed(audience_id=1, **identities):
    return added(audience_id, **identities) | {"type": "member_removed"}


def deleted(audience_id=1):
    change = added(audience_id) | {"type": "audience_deleted"}
    del change["user_identities"]
    return change


def many(count, audience_id=1):
    """Additions of different users."""
    return [added(audience_id, CustomerId=f"user-{number}") for number in range(count)]


def changed(before, after):
    change = added(CustomerId=after) | {"type": "identity_changed"}
    return change | {"previous_user_identities": {"CustomerId": before}}


def customers(call):
    """The customers of a delivery's groups; of a pair, both."""
    return [
        json.loads(group)["UserIdentities"]["CustomerId"]
        if isinstance(group, str)
        else [json.loads(line)["UserIdentities"]["CustomerId"] for line in group]
        for group in call["records"]
    ]


def test_a_change_becomes_a_batch_for_its_stream(worker, connect, forward, services):
    stream = connect()
    forward(added())
    (call,) = worker.calls(stream.queue)
    (identifier,) = services.registry.snapshot().connections
    assert call == {
        "configuration": "main",
        "delivery_stream_name": "travel",
        "records": [
            '{"MembershipChangedTimestamp":"7","AudienceId":1,"AudienceName":"Name","IsMember":true,'
            '"UserIdentities":{"CustomerId":"secretive"}}\n'
        ],
        "connection_ids": [identifier],
        "audience_ids": [1],
    }
    (message,) = worker.waiting(stream.queue)
    assert message.headers["task"] == "audience.deliver.us-east-1"
    assert message.headers[ENQUEUED_AT_HEADER] == services.clock()


def test_changes_of_several_audiences_for_one_stream_go_together(worker, connect, forward):
    stream = connect(1)
    connect(2)
    forward(added(1, CustomerId="a"), added(2, CustomerId="b"), added(1, CustomerId="c"))
    (call,) = worker.calls(stream.queue)
    assert customers(call) == ["a", "b", "c"]
    assert call["audience_ids"] == [1, 2]
    assert len(call["connection_ids"]) == 2


def test_each_stream_gets_what_its_connection_forwards(worker, connect, forward):
    everything = connect(name="everything")
    nameless = connect(name="nameless", forward_customer_ids=False, append_newline=False)
    forward(added(CustomerId="a", Other="b"))
    (full,), (reduced,) = worker.calls(everything.queue), worker.calls(nameless.queue)
    assert full["records"][0].endswith('{"CustomerId":"a","Other":"b"}}\n')
    assert reduced["records"][0].endswith('{"Other":"b"}}')


def test_a_removal_and_its_addition_are_one_atomic_group(worker, connect, forward):
    stream = connect()
    forward(added(CustomerId="a"), changed("b", "c"))
    (call,) = worker.calls(stream.queue)
    assert customers(call) == ["a", ["b", "c"]]


def test_a_full_batch_does_not_split_an_atomic_group(worker, connect, forward):
    stream = connect()
    forward(*many(499), changed("b", "c"))
    first, second = worker.calls(stream.queue)
    assert (len(first["records"]), customers(second)) == (499, [["b", "c"]])


def test_a_batch_is_a_tenth_of_a_second_s_quota_of_its_own_stream(worker, connect, forward):
    narrow = connect(name="narrow", stream_quota="20records/s")
    wide = connect(name="wide")
    forward(*many(5), changed("b", "c"))
    sizes = [[len(call["records"]) for call in worker.calls(stream.queue)] for stream in (narrow, wide)]
    assert sizes == [[2, 2, 1, 1], [6]]


def test_a_batch_is_a_tenth_of_a_second_s_bytes(worker, connect, forward):
    stream = connect(stream_quota="10000B/s")
    forward(*[added(CustomerId=str(number) * 150) for number in range(7)])
    sizes = [[len(line) for line in call["records"]] for call in worker.calls(stream.queue)]
    assert [len(lines) for lines in sizes] == [3, 3, 1]
    assert sum(sizes[0]) <= 1_000 < sum(sizes[0]) + sizes[1][0]


def test_an_audience_without_a_connection_is_counted_as_skipped(worker, connect, forward, services):
    connect()
    forward(added(2), added(2))
    assert services.counters.of(None).skipped == {Skip.NO_CONNECTION: 2}
    assert services.skipped_audiences.all() == {Skip.NO_CONNECTION: ({2: 2}, 0)}
    assert not services.alerts.all()


def test_an_audience_connected_a_moment_ago_misses_nothing(worker, forward, services, redis):
    services.registry.snapshot()
    registry = Services(redis, read_settings({})).registry
    registry.configure(name="main")
    registry.connect(audience_id=1, configuration="main", delivery_stream_name="travel")
    forward(added())
    assert len(worker.calls("firehose.main.us-east-1.travel")) == 1
    assert not services.counters.of(None).skipped


def test_records_that_a_connection_does_not_forward_are_counted_as_skipped(
    worker, connect, forward, services
):
    stream = connect(forward_email_addresses=False, send_anonymous_users=False)
    forward(added(Email="a"), added(MPID="1"), added(MPID="1", Email="a"), added(CustomerId="b"))
    assert services.counters.of(stream).skipped == {Skip.NO_IDENTITIES: 1, Skip.ANONYMOUS: 2}
    (call,) = worker.calls(stream.queue)
    assert customers(call) == ["b"]


def test_invalid_changes_become_one_dead_letter_and_one_alert(worker, connect, forward, services):
    stream = connect()
    bad = [added() | {"audience_id": str(number)} for number in range(7)]
    forward(added(CustomerId="first"), *bad, added(CustomerId="last"))
    (call,) = worker.calls(stream.queue)
    assert customers(call) == ["first", "last"]
    (letter,), (alert,) = services.dead_letters.all(), services.alerts.all()
    assert services.dead_letters.message(letter).kwargs == {"changes": bad}
    assert (alert.type, alert.severity, alert.records) == ("Invalid Change", "warning", 7)
    assert alert.dead_letter_id == letter.id
    assert alert.message.startswith("7 of 9 invalid, at 1-7: position 1: audience_id: not an integer | ")
    assert alert.message.endswith("position 5: audience_id: not an integer")


def test_a_dead_letter_of_invalid_changes_replays_as_the_same_call_with_them_alone(forward, services):
    forward(added(), 7)
    (letter,) = services.dead_letters.all()
    message = services.dead_letters.message(letter)
    assert (message.task, message.queue, message.kwargs) == (
        "audience.forward",
        CHANGES_QUEUE,
        {"changes": [7]},
    )


def test_a_record_over_the_limit_is_a_dead_letter_of_its_stream(worker, connect, forward, services):
    stream = connect()
    forward(added(CustomerId="a"), added(CustomerId="x" * 2 * MEGABYTE), added(CustomerId="b"))
    (call,) = worker.calls(stream.queue)
    assert customers(call) == ["a", "b"]
    (letter,), (alert,) = services.dead_letters.all(), services.alerts.all()
    assert (letter.stream, letter.records, letter.replayable) == (stream, 1, False)
    assert (alert.type, alert.severity, alert.delivery_stream_name) == (
        "Record Too Large",
        "warning",
        "travel",
    )


@ALONE
def test_a_change_without_a_timestamp_bears_the_time_of_its_receipt(worker, connect, forward, clock):
    stream = connect()
    timeless = added()
    del timeless["timestamp"]
    forward(timeless)
    (call,) = worker.calls(stream.queue)
    assert json.loads(call["records"][0])["MembershipChangedTimestamp"] == "1700000000"


def test_a_completed_message_that_comes_back_enqueues_nothing(worker, connect, forward, services):
    stream = connect()
    forward(added(), task_id="one")
    forward(added(), task_id="one")
    assert len(worker.waiting(stream.queue)) == 1
    assert services.counters.of(stream).enqueued == 1


def test_one_id_for_three_events_takes_the_third_for_a_repeat_of_the_first(
    worker, connect, forward, services
):
    stream = connect()
    joins, leaves = added(), removed()
    del joins["timestamp"], leaves["timestamp"]
    for change in (joins, leaves, joins):
        forward(change, task_id="chosen")
    records = [json.loads(line) for call in worker.calls(stream.queue) for line in call["records"]]
    assert [record["IsMember"] for record in records] == [True, False]
    assert services.counters.of(None).skipped == {Skip.REPEATED: 1}
    forward(joins, task_id="another")
    assert services.counters.of(stream).enqueued == 3


def test_a_completed_message_that_comes_back_is_counted_as_repeated(worker, connect, forward, services):
    stream = connect()
    for _ in range(3):
        forward(added(), added(), task_id="one")
    assert len(worker.calls(stream.queue)) == 1
    assert services.counters.of(None).skipped == {Skip.REPEATED: 4}


def test_another_message_under_the_same_id_is_another_message(worker, connect, forward, services):
    stream = connect()
    forward(added(CustomerId="first"), 1, task_id="nightly")
    forward(added(CustomerId="second"), 2, task_id="nightly")
    assert [customers(call) for call in worker.calls(stream.queue)] == [["first"], ["second"]]
    assert len(services.dead_letters.all()) == 2


def test_a_removal_that_is_too_large_leaves_its_addition(worker, connect, forward, services):
    stream = connect()
    forward(changed("secretive" * MEGABYTE, "new"))
    (call,), (letter,) = worker.calls(stream.queue), services.dead_letters.all()
    assert customers(call) == ["new"]
    assert (letter.type, letter.records) == ("Record Too Large", 1)


def test_an_addition_that_is_too_large_takes_its_removal_along(worker, connect, forward, services):
    stream = connect()
    forward(changed("old", "secretive" * MEGABYTE))
    (letter,) = services.dead_letters.all()
    assert not worker.calls(stream.queue)
    assert (letter.type, letter.records) == ("Record Too Large", 2)


@ALONE
def test_a_message_whose_worker_died_halfway_makes_the_same_batches(worker, connect, forward, clock, redis):
    stream = connect()
    timeless = added()
    del timeless["timestamp"]
    forward(timeless, task_id="one")
    redis.delete(*redis.keys(f"{COMPLETED_ATTEMPTS}:*"))
    clock.advance(3600)
    forward(timeless, task_id="one")
    first, second = worker.waiting(stream.queue)
    assert first.headers["id"] == second.headers["id"]
    assert first.payload == second.payload


def test_other_messages_make_other_batches(worker, connect, forward):
    stream = connect()
    forward(added(), task_id="one")
    forward(added(), task_id="two")
    first, second = worker.waiting(stream.queue)
    assert first.headers["id"] != second.headers["id"]


def records(call):
    return [
        json.loads(line)
        for group in call["records"]
        for line in ([group] if isinstance(group, str) else group)
    ]


def test_metadata_numbers_the_records_of_all_messages_in_the_order_of_their_changes(worker, connect, forward):
    stream = connect(include_metadata=True)
    forward(added(CustomerId="a"), changed("b", "c"), task_id="one")
    forward(removed(CustomerId="a"), task_id="two")
    delivered = [record for call in worker.calls(stream.queue) for record in records(call)]
    numbers = [record["SequenceNumber"] for record in delivered]
    assert numbers == sorted(set(numbers))
    assert {len(number) for number in numbers} == {24}
    assert len({record["ChangeId"] for record in delivered}) == len(delivered) == 4


@ALONE
def test_a_message_that_comes_back_has_the_same_metadata(worker, connect, forward, redis):
    stream = connect(include_metadata=True)
    for _ in range(2):
        forward(added(), task_id="one")
        redis.delete(*redis.keys(f"{COMPLETED_ATTEMPTS}:*"))
    first, second = worker.calls(stream.queue)
    assert first == second


def test_the_number_that_the_broker_stamped_counts(worker, connect, forward):
    stream = connect(include_metadata=True)
    forward(added(), headers={SEQUENCE_HEADER: "1700000000000000"})
    (call,) = worker.calls(stream.queue)
    assert records(call)[0]["SequenceNumber"] == "1700000000000000" + "00000000"


@pytest.mark.parametrize("number", ["", "-1", "secretive", 7, None, "1" * 17])
def test_a_malformed_sequence_number_is_replaced(worker, connect, forward, number):
    stream = connect(include_metadata=True)
    forward(added(), headers={SEQUENCE_HEADER: number})
    (call,) = worker.calls(stream.queue)
    assert records(call)[0]["SequenceNumber"] > "17" + "0" * 22


def test_without_metadata_no_sequence_number_is_drawn(connect, forward, redis):
    connect()
    forward(added())
    assert not redis.keys(f"{SEQUENCE}*")


def test_invalid_changes_keep_the_number_of_their_message(forward, services):
    forward(7, headers={SEQUENCE_HEADER: "1700000000000000"})
    (letter,) = services.dead_letters.all()
    assert services.dead_letters.message(letter).sequence == "1700000000000000"


def test_two_batches_of_one_message_have_ids_of_their_own(worker, connect, forward):
    stream = connect()
    forward(*many(1000))
    first, second = worker.waiting(stream.queue)
    assert first.headers["id"] != second.headers["id"]


def test_a_message_that_comes_back_is_dead_lettered_once(connect, forward, services):
    for _ in range(2):
        forward(7, task_id="one")
    assert (len(services.dead_letters.all()), len(services.alerts.all())) == (1, 1)


WRONG_CALLS = [
    {},
    {"changes": "secretive"},
    {"changes": None},
    {"changes": [], "secretive": 1},
    {"request": {}},
]


@pytest.mark.parametrize("kwargs", WRONG_CALLS)
def test_a_call_with_wrong_arguments_becomes_a_dead_letter(worker, services, kwargs):
    worker.send("audience.forward", kwargs)
    worker.run(CHANGES_QUEUE)
    (letter,), (alert,) = services.dead_letters.all(), services.alerts.all()
    assert services.dead_letters.message(letter).kwargs == kwargs
    assert alert.type == "Invalid Change"
    assert "secretive" not in repr(alert)


def test_a_message_without_changes_is_no_error(forward, services):
    forward()
    assert not services.dead_letters.all()


def test_while_redis_is_away_a_message_stays_in_the_broker(worker, connect, redis_server, clock):
    stream = connect()
    worker.send("audience.forward", {"changes": [added()]})
    redis_server.connected = False
    clock.advance(60)
    worker.run_one(CHANGES_QUEUE)
    assert len(worker.waiting(CHANGES_QUEUE)) == 1
    redis_server.connected = True
    worker.run(CHANGES_QUEUE)
    assert len(worker.waiting(stream.queue)) == 1


@pytest.fixture
def corrupt(services, redis):
    """Corrupt a connection of an audience, past the registry; returns the function that fixes it."""

    def overwrite(identifier, text):
        redis.hset(CONNECTIONS, identifier, text)
        redis.incr(VERSION)
        services.registry._snapshot = None

    def corrupt(audience_id):
        stored = redis.hgetall(CONNECTIONS)
        (identifier,) = (key for key in stored if key.startswith(f"{audience_id}-"))
        overwrite(identifier, "corrupt")
        return lambda: overwrite(identifier, stored[identifier])

    return corrupt


def test_changes_of_a_corrupt_connection_wait_as_a_dead_letter(worker, connect, forward, services, corrupt):
    good, bad = connect(1), connect(2, name="other")
    fix = corrupt(2)
    forward(added(1, CustomerId="a"), added(2, CustomerId="b"))
    assert [customers(call) for call in worker.calls(good.queue)] == [["a"]]
    (letter,) = services.dead_letters.all()
    assert (letter.type, letter.error_code) == ("Invalid Request", "UnreadableConnection")
    assert letter.audience_ids == [2]

    fix()
    forward(*services.dead_letters.message(letter).kwargs["changes"])
    assert [customers(call) for call in worker.calls(bad.queue)] == [["b"]]


def mparticle(*audiences, **keys):
    entries = [
        {"audience_id": number, "audience_name": "Name", "action": action} for number, action in audiences
    ]
    identities = [{"type": "customer", "value": "secretive"}, {"type": "smart_tv", "value": "x"}]
    profile = {"user_identities": identities, "audiences": entries} | keys
    return {"timestamp_ms": 1_700_000_000_000, "user_profiles": [profile]}


def test_an_mparticle_request_is_forwarded(worker, connect, services):
    stream = connect()
    request = mparticle((1, "add"), (1, "delete"), (1, "attribute_update"))
    worker.send("audience.forward_mparticle", {"request": request})
    worker.run(CHANGES_QUEUE)
    (call,) = worker.calls(stream.queue)
    (added_and_removed,) = call["records"]
    assert [json.loads(line)["IsMember"] for line in added_and_removed] == [True, False]
    assert services.counters.of(None).skipped == {Skip.ATTRIBUTE_UPDATE: 1, Skip.UNNAMED_IDENTITY: 1}


def test_a_removed_mparticle_subscription_is_the_deletion_of_its_audience(worker, connect, services):
    stream = connect()
    request = {
        "type": "audience_subscription_request",
        "timestamp_ms": 1_700_000_000_000,
        "audience_id": 1,
        "audience_name": "Name",
        "action": "remove",
    }
    worker.send("audience.forward_mparticle", {"request": request})
    worker.run(CHANGES_QUEUE)
    (call,) = worker.calls(stream.queue)
    assert [json.loads(line)["IsDeleted"] for line in call["records"]] == [True]


def test_an_mparticle_verification_is_no_error_and_is_not_counted(worker, connect, services):
    stream = connect()
    request = {"type": "audience_membership_change_request", "timestamp_ms": 1_700_000_000_000}
    worker.send("audience.forward_mparticle", {"request": request})
    worker.run(CHANGES_QUEUE)
    assert worker.calls(stream.queue) == []
    assert services.counters.of(None).skipped == {}
    assert services.alerts.all() == services.dead_letters.all() == []


def test_an_invalid_part_of_an_mparticle_request_is_kept_as_a_request(worker, connect, services):
    stream = connect()
    request = mparticle((1, "add"), (1, "rename"))
    worker.send("audience.forward_mparticle", {"request": request})
    worker.run(CHANGES_QUEUE)
    assert len(worker.calls(stream.queue)) == 1
    (letter,) = services.dead_letters.all()
    message = services.dead_letters.message(letter)
    assert message.task == "audience.forward_mparticle"
    assert message.kwargs == {"request": mparticle((1, "rename"))}


@pytest.mark.parametrize("request_", [None, [], "secretive", {"user_profiles": 7}])
def test_a_malformed_mparticle_request_becomes_a_dead_letter(worker, services, request_):
    worker.send("audience.forward_mparticle", {"request": request_})
    worker.run(CHANGES_QUEUE)
    (letter,) = services.dead_letters.all()
    assert services.dead_letters.message(letter).kwargs == {"request": request_}
    assert "secretive" not in repr(services.alerts.all())


def test_devices_that_differ_only_in_an_excluded_identity_are_one_record(worker, connect, services):
    excluding = connect(name="without", forward_google_advertising_ids=False)
    including = connect(name="with")
    request = mparticle((1, "add"))
    request["user_profiles"][0]["device_identities"] = [
        {"type": "google_advertising_id", "encoding": "raw", "value": value} for value in ("one", "two")
    ]
    worker.send("audience.forward_mparticle", {"request": request})
    worker.run(CHANGES_QUEUE)
    assert services.counters.of(excluding).enqueued == 1
    assert services.counters.of(excluding).skipped == {Skip.FURTHER_VALUE: 1}
    assert services.counters.of(including).enqueued == 2


@pytest.fixture
def empty_state(app, services, connect):
    """Connect an audience, and empty the state: the broker has its identity, the state has nothing."""

    def empty():
        connect()
        app.installation.register()
        services.redis.flushall()
        services.registry.refresh()

    return empty


@pytest.mark.parametrize("task", ["audience.forward", "audience.forward_mparticle"])
def test_changes_wait_where_the_registry_was_there_and_is_gone(worker, connect, app, empty_state, task):
    services = app.services
    empty_state()
    kwargs = {"changes": [added()]} if task == "audience.forward" else {"request": mparticle((1, "add"))}
    worker.send(task, kwargs)
    assert worker.run_one(CHANGES_QUEUE)
    assert len(worker.waiting(CHANGES_QUEUE)) == 1
    assert services.counters.of(None).skipped == {}
    assert services.dead_letters.all() == []
    (alert,) = services.alerts.all()
    assert (alert.type, alert.error_code) == ("Worker Trouble", "StateMissing")
    assert ": the Redis of AUDIENCE_REDIS_URL does not belong to this broker" in alert.message
    # Registered again, the message is forwarded by the same worker, and only then.
    app.installation.register()
    services.registry.configure(name="main")
    stream = connect()
    worker.run(CHANGES_QUEUE)
    assert len(worker.calls(stream.queue)) == 1
    assert services.counters.of(stream).enqueued == 1


def test_a_batch_waits_where_the_registry_was_there_and_is_gone(deliver, worker, services, stream, app):
    app.installation.register()
    deliver("secretive", run=False)
    services.redis.flushall()
    services.registry.refresh()
    assert worker.run_one(stream.queue)
    assert len(worker.waiting(stream.queue)) == 1
    assert services.dead_letters.all() == []
    assert services.circuit_breakers.get(stream) is None


def test_an_audience_that_was_never_connected_is_skipped_in_a_registry_that_is_there(
    forward, services, connect, app
):
    connect()
    app.installation.register()
    forward(added(audience_id=2))
    assert services.counters.of(None).skipped == {Skip.NO_CONNECTION: 1}
