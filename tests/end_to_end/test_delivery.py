"""From another app's `send_task` to the stream, whatever Firehose says on the way."""

from datetime import UTC, datetime
from uuid import uuid4

from waiting import eventually

from devstack.firehose import Answer, becomes_active_once_described, error, fail, refuse_once

MEGABYTE = 10**6


def test_a_change_of_an_app_that_has_nothing_but_celery_is_delivered(stack, audience):
    stack.send(*audience.added("secretive-1"))
    eventually(audience.received)
    assert audience.customers() == ["secretive-1"]


def test_an_enqueued_change_does_not_expire_and_cannot_be_revoked(stack, audience):
    revoked = str(uuid4())
    stack.caller.control.revoke(revoked, terminate=True)
    eventually(lambda: any(revoked in known for known in stack.inspect("revoked").values()))
    stack.send(*audience.added("secretive-revoked"), task_id=revoked)
    expected = ["secretive-revoked"]
    # RabbitMQ itself drops a message whose time is over, unless a worker can take it at that moment.
    if stack.broker_url is None:
        stack.send(*audience.added("secretive-expired"), expires=datetime(2001, 1, 1, tzinfo=UTC))
        expected.insert(0, "secretive-expired")
    eventually(lambda: sorted(audience.customers()) == expected)


def test_only_refused_records_are_sent_again(stack, audience):
    stack.firehose.faults.append(refuse_once(b"secretive-b"))
    stack.send(*audience.added("secretive-a", "secretive-b", "secretive-c"))
    eventually(lambda: len(audience.received()) == 3)
    assert audience.customers() == ["secretive-a", "secretive-c", "secretive-b"]
    assert audience.puts() == [3, 1]


def test_a_refused_removal_brings_its_addition_again_so_that_the_last_word_is_true(stack, audience):
    stack.firehose.faults.append(refuse_once(b"secretive-before"))
    change = audience.change(
        "identity_changed",
        previous_user_identities={"CustomerId": "secretive-before"},
        user_identities={"CustomerId": "secretive-after"},
    )
    stack.send(change)
    eventually(lambda: len(audience.received()) == 3)
    assert audience.customers() == ["secretive-after", "secretive-before", "secretive-after"]


def test_batches_of_an_outage_are_delivered_after_it(stack, audience):
    stack.firehose.faults.append(fail(error("InternalFailure", 500), times=2, stream=audience.stream.name))
    stack.send(*audience.added("secretive-1"))
    eventually(audience.received)
    assert audience.puts() == [1, 1, 1]
    assert not audience.letters()


def test_a_stream_that_is_still_being_created_is_waited_for(stack, audience):
    stream = stack.firehose.streams["*", "us-east-1", audience.stream.name]
    stream.status = "CREATING"
    stack.firehose.faults.append(becomes_active_once_described(stream))
    stack.send(*audience.added("secretive-early"))
    eventually(audience.received)
    assert not audience.letters()


def test_delivered_records_are_counted(stack, audience):
    stack.firehose.faults.append(refuse_once(b"secretive-b"))
    stack.send(*audience.added("secretive-a", "secretive-b"))
    counters = stack.services.counters
    eventually(
        lambda: (counters.of(audience.stream).delivered, counters.of(audience.stream).retrying) == (2, 0)
    )
    assert counters.of(audience.stream).refused == 1


def test_more_records_than_a_request_takes_are_delivered_in_several(stack, audience):
    stack.send(*audience.added(*(f"secretive-{number}" for number in range(1001))))
    eventually(lambda: len(audience.received()) == 1001)
    assert sorted(audience.puts()) == [1, 500, 500]


def test_more_bytes_than_a_request_takes_are_delivered_in_several(stack):
    # A tenth of a second's quota is more than a request takes.
    audience = stack.audience(stream_quota="100MiB/s")
    megabytes = [audience.added_user(Other="secretive" + "x" * MEGABYTE) for _ in range(5)]
    stack.send(*megabytes)
    eventually(lambda: len(audience.received()) == 5)
    assert max(audience.puts()) == 3


def test_a_record_over_the_limit_does_not_hold_up_its_neighbours(stack, audience):
    first, last = audience.added("secretive-first", "secretive-last")
    stack.send(first, audience.added_user(CustomerId="secretive" + "x" * 2 * MEGABYTE), last)
    eventually(lambda: len(audience.received()) == 2)
    assert audience.customers() == ["secretive-first", "secretive-last"]
    (letter,) = audience.letters()
    (alert,) = audience.alerts()
    assert (alert.type, alert.severity, alert.records) == ("Record Too Large", "warning", 1)
    assert alert.dead_letter_id == letter.id


def test_invalid_changes_do_not_hold_up_their_neighbours(stack, audience):
    # The alert of this message is an entry of its own, and does not repeat another test's.
    stack.services.alerts.acknowledge_all()
    before = {letter.id for letter in stack.services.dead_letters.all()}
    nameless = audience.added_user(CustomerId="secretive-nameless") | {"audience_internal_name": ""}
    misspelt = audience.added_user(**{"secretive@example.com": "secretive-misspelt"})
    first, last = audience.added("secretive-first", "secretive-last")
    stack.send(first, nameless, misspelt, last)
    eventually(lambda: len(audience.received()) == 2)
    assert audience.customers() == ["secretive-first", "secretive-last"]
    (letter,) = [letter for letter in stack.services.dead_letters.all() if letter.id not in before]
    assert stack.services.dead_letters.message(letter).kwargs == {"changes": [nameless, misspelt]}
    alert = next(alert for alert in stack.services.alerts.all() if alert.dead_letter_id == letter.id)
    assert (alert.type, alert.severity, alert.records) == ("Invalid Change", "warning", 2)
    assert "2 of 4" in alert.message
    assert "position 1: audience_external_name" in alert.message
    assert "position 2: user_identities: unknown identity name" in alert.message


def test_an_audience_without_a_connection_is_counted_as_skipped(stack, audience):
    before = stack.services.counters.of(None).skipped.get("no_connection", 0)
    stranger = audience.added("secretive-1")[0] | {"audience_id": 999_999}
    stack.send(stranger, *audience.added("secretive-2"))
    eventually(audience.received)
    eventually(lambda: stack.services.counters.of(None).skipped.get("no_connection", 0) == before + 1)
    assert not audience.alerts()


def test_an_mparticle_request_is_delivered(stack, audience):
    request = {
        "type": "audience_membership_change_request",
        "timestamp_ms": 1685499524620,
        "user_profiles": [
            {
                "mpid": "12345",
                "user_identities": [{"type": "email", "encoding": "md5", "value": "secretive-md5"}],
                "audiences": [{"audience_id": audience.id, "audience_name": "Example", "action": "add"}],
            }
        ],
    }
    stack.call("audience.forward_mparticle", {"request": request})
    (line,) = eventually(audience.received)
    assert line == (
        b'{"MembershipChangedTimestamp":"1685499524","AudienceId":%d,"AudienceName":"Example",'
        b'"IsMember":true,"UserIdentities":{"Email":"secretive-md5","MPID":"12345"}}\n' % audience.id
    )


def test_an_answer_that_comes_after_the_write_has_happened_costs_a_duplicate_and_no_record(stack, audience):
    hiccup = Answer(500, {"__type": "InternalFailure"}, after=True)
    stack.firehose.faults.append(fail(hiccup, times=1, stream=audience.stream.name))
    stack.send(*audience.added("secretive-1"))
    eventually(lambda: len(audience.received()) == 2)
    assert audience.customers() == ["secretive-1", "secretive-1"]
