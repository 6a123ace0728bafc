"""test, policy, pause, resume, status."""

import json

import pytest

from devstack.firehose import Answer, error, fail
from schemas.records import Skip
from worker.failures.alert_types import AlertType, Failure
from worker.failures.dead_lettering import Undeliverable
from worker.failures.dead_letters import Message
from worker.flow.circuit_breakers import OPERATOR, PAUSED_KEY, CircuitBreakers, CircuitState
from worker.queues import Stream

STREAM = Stream("main", "us-east-1", "stream")


def dead_letter_records(services, stream=STREAM, records=3, connection_ids=()):
    message = Message(stream.task, stream.queue, {"records": ["secret"] * records})
    failure = Failure(AlertType.ACCESS_DENIED, "AccessDeniedException", "denied")
    services.dead_lettering.dead_letter(
        Undeliverable(
            "letter", message, failure, records=records, stream=stream, connection_ids=connection_ids
        ),
    )


def outcomes(result):
    """By check, whether it was ok."""
    lines = (line.split(maxsplit=2) for line in result.stdout.splitlines())
    return {check: outcome for outcome, check, _ in lines if outcome in {"ok", "failed"}}


def test_a_stream_that_can_be_delivered_to_passes_every_check(operator, firehose):
    firehose.create("stream")
    result = operator.runs("test", operator.connects())
    assert outcomes(result) == dict.fromkeys(
        ["endpoint", "credentials", "permission", "stream", "source", "status"], "ok"
    )
    assert [call.operation for call in firehose.calls] == ["DescribeDeliveryStream"]


def test_a_test_says_that_no_record_was_sent_and_how_to_send_one(operator, firehose):
    firehose.create("stream")
    assert "--send-record" in operator.runs("test", operator.connects()).stderr
    assert not firehose.accepted("stream")


def test_one_marked_record_is_sent_where_it_is_asked_for(operator, firehose, services):
    firehose.create("stream")
    result = operator.runs("test", operator.connects(), "--send-record")
    assert outcomes(result)["record"] == "ok"
    (line,) = firehose.accepted("stream")
    assert line.endswith(b"\n")
    assert json.loads(line) == {
        "MembershipChangedTimestamp": "1800000000",
        "AudienceId": 7,
        "AudienceName": "audience-firehose test",
        "IsMember": False,
        "UserIdentities": {},
        "IsTest": True,
    }
    assert services.audit.latest(1)[0].action == "send test record"


def test_no_record_is_sent_to_a_stream_that_fails_a_check(operator, firehose):
    firehose.create("stream", status="CREATING")
    operator.tries("test", operator.connects(), "--send-record")
    assert [call.operation for call in firehose.calls] == ["DescribeDeliveryStream"]


def deny_batches(call):
    return error("AccessDeniedException", message="no") if call.operation == "PutRecordBatch" else None


def test_a_record_that_only_put_record_may_send_passes_and_the_denial_is_shown(operator, firehose):
    firehose.create("stream")
    firehose.faults.append(deny_batches)
    result = operator.runs("test", operator.connects(), "--send-record")
    assert outcomes(result)["record"] == "ok"
    assert "PutRecordBatch is denied" in result.stdout


def test_a_record_that_is_refused_fails_the_command_and_opens_nothing(operator, firehose, services):
    firehose.create("stream")
    identifier = operator.connects()
    services.circuit_breakers.pause(STREAM, AlertType.INVALID_REQUEST)
    firehose.faults.append(fail(error("InvalidKMSResourceException", message="the key is disabled")))
    result = operator.tries("test", identifier, "--send-record")
    assert result.exit_code == 1
    assert outcomes(result)["record"] == "failed"
    assert "the key is disabled" in result.stdout
    assert services.circuit_breakers.state(STREAM) is CircuitState.PAUSED


KEY = "arn:aws:kms:us-east-1:123456789012:key/0001"
CUSTOMERS_KEY = {"KeyType": "CUSTOMER_MANAGED_CMK", "KeyARN": KEY}


def test_a_stream_whose_encryption_has_failed_fails_there_and_opens_nothing(operator, firehose, services):
    firehose.create("stream").encryption = {"Status": "ENABLING_FAILED", **CUSTOMERS_KEY}
    identifier = operator.connects()
    services.circuit_breakers.pause(STREAM, AlertType.INVALID_REQUEST)
    result = operator.tries("test", identifier)
    assert (result.exit_code, outcomes(result)["encryption"]) == (1, "failed")
    assert services.circuit_breakers.state(STREAM) is CircuitState.PAUSED


def test_a_missing_stream_is_named_and_fails_the_command(operator, firehose):
    result = operator.tries("test", operator.connects())
    assert result.exit_code == 1
    assert outcomes(result) == {
        **dict.fromkeys(["endpoint", "credentials", "permission"], "ok"),
        "stream": "failed",
    }
    assert "create it" in result.stdout


def test_a_stream_of_another_source_and_status_fails_at_both(operator, firehose):
    firehose.create("stream", status="CREATING", source="KinesisStreamAsSource")
    result = operator.tries("test", operator.connects())
    assert result.exit_code == 1
    assert outcomes(result)["source"] == outcomes(result)["status"] == "failed"


def test_a_machine_without_credentials_says_nothing_about_the_stream(operator, monkeypatch):
    identifier = operator.connects()
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name, raising=False)
    message = operator.fails("test", identifier)
    assert "this machine cannot ask Firehose about stream in us-east-1; that says nothing about" in message
    assert "cannot be delivered to" not in message


def test_refused_credentials_and_a_missing_permission_fail_different_checks(operator, firehose):
    firehose.create("stream")
    identifier = operator.connects()
    firehose.faults.append(lambda _: error("AccessDeniedException"))
    denied = operator.tries("test", identifier)
    assert outcomes(denied) == {"endpoint": "ok", "credentials": "ok", "permission": "failed"}
    assert "firehose:PutRecordBatch alone and may work" in denied.stdout
    firehose.faults[:] = [lambda _: error("UnrecognizedClientException")]
    assert outcomes(operator.tries("test", identifier)) == {"credentials": "failed"}


def test_an_endpoint_that_does_not_answer_is_named(operator, firehose):
    identifier = operator.connects()
    firehose.stop()
    message = operator.tries("test", identifier)
    assert outcomes(message) == {"endpoint": "failed"}
    assert firehose.url in message.stdout


def test_a_passed_test_has_one_batch_probe_a_stream_that_a_refusal_had_paused(operator, firehose, services):
    firehose.create("stream")
    identifier = operator.connects()
    services.circuit_breakers.pause(STREAM, AlertType.ACCESS_DENIED)
    dead_letter_records(services)
    result = operator.runs("test", identifier)
    assert "(Access Denied) and flows again" in result.stdout
    assert f"replay --all --connection {identifier}" in result.stderr
    assert services.circuit_breakers.state(STREAM) is CircuitState.HALF_OPEN


def test_a_failed_test_resumes_no_stream(operator, firehose, services):
    identifier = operator.connects()
    services.circuit_breakers.pause(STREAM, AlertType.STREAM_NOT_FOUND)
    operator.tries("test", identifier)
    assert services.circuit_breakers.get(STREAM).reason == AlertType.STREAM_NOT_FOUND


def test_a_passed_test_leaves_an_operators_pause_alone(operator, firehose, services):
    firehose.create("stream")
    identifier = operator.connects()
    operator.runs("pause", identifier)
    assert f"resume {identifier}" in operator.runs("test", identifier).stderr
    assert services.circuit_breakers.get(STREAM).reason == "operator"


def test_an_answer_that_is_not_from_aws_is_explained(operator, firehose):
    firehose.faults.append(lambda _: Answer(200, {}))
    assert outcomes(operator.tries("test", operator.connects())) == {"endpoint": "failed"}


@pytest.mark.parametrize(
    ("region", "arn"),
    [
        ("us-east-1", "arn:aws:firehose:us-east-1:123456789012:deliverystream/stream"),
        ("cn-north-1", "arn:aws-cn:firehose:cn-north-1:123456789012:deliverystream/stream"),
        ("us-gov-west-1", "arn:aws-us-gov:firehose:us-gov-west-1:123456789012:deliverystream/stream"),
    ],
)
def test_the_policy_allows_two_actions_on_one_stream(operator, region, arn):
    identifier = operator.connects(7, "stream", "--region", region)
    printed = operator.runs("policy", identifier, "--account-id", "123456789012").stdout
    assert json.loads(printed) == {
        "Version": "2012-10-17",
        "Statement": [
            {
                "Effect": "Allow",
                "Action": ["firehose:PutRecordBatch", "firehose:DescribeDeliveryStream"],
                "Resource": arn,
            }
        ],
    }


def statements(result):
    """By resource, the actions that the policy allows."""
    return {allowed["Resource"]: allowed["Action"] for allowed in json.loads(result.stdout)["Statement"]}


ACCOUNT = ("--account-id", "123456789012")
KEY_ACTIONS = ["kms:GenerateDataKey", "kms:Decrypt"]


def test_the_policy_allows_a_customer_managed_key_that_the_stream_is_encrypted_with(operator, firehose):
    firehose.create("stream").encryption = {"Status": "ENABLED", **CUSTOMERS_KEY}
    assert statements(operator.runs("policy", operator.connects(), *ACCOUNT))[KEY] == KEY_ACTIONS


def test_the_policy_allows_no_key_of_aws_itself(operator, firehose):
    firehose.create("stream").encryption = {"Status": "ENABLED", "KeyType": "AWS_OWNED_CMK"}
    result = operator.runs("policy", operator.connects(), *ACCOUNT)
    assert len(statements(result)) == 1
    assert not result.stderr


def test_the_policy_allows_a_key_that_is_named_and_asks_nobody(operator, firehose):
    result = operator.runs("policy", operator.connects(), *ACCOUNT, "--kms-key-arn", KEY)
    assert statements(result)[KEY] == KEY_ACTIONS
    assert not firehose.calls


def test_the_policy_says_that_a_key_is_not_known_where_the_stream_cannot_be_described(operator, firehose):
    result = operator.runs("policy", operator.connects(), *ACCOUNT)
    assert len(statements(result)) == 1
    assert "--kms-key-arn" in result.stderr


def test_an_alias_is_no_key_that_a_policy_can_name(operator, firehose):
    alias = "arn:aws:kms:us-east-1:123456789012:alias/mine"
    message = operator.fails("policy", operator.connects(), *ACCOUNT, "--kms-key-arn", alias)
    assert "no alias" in message


@pytest.mark.parametrize("number", ["123", "12345678901a", "1234567890123", "१२३४५६७८९०१२"])
def test_an_account_id_is_twelve_digits(operator, number):
    identifier = operator.connects()
    assert "12 digits" in operator.fails("policy", identifier, "--account-id", number)


def test_pause_and_resume_apply_to_all_connections_of_the_stream(operator, services):
    first, second = operator.connects(7), operator.connects(8)
    paused = operator.runs("pause", first)
    assert second in paused.stderr
    assert services.circuit_breakers.get(STREAM).reason == "operator"
    assert "resumed" in operator.runs("resume", second).stdout
    assert services.circuit_breakers.get(STREAM) is None
    assert "was not paused" in operator.runs("resume", second).stdout


def test_a_stream_that_an_operator_has_paused_is_not_paused_again(operator, services):
    identifier = operator.connects()
    operator.runs("pause", identifier)
    before = services.circuit_breakers.get(STREAM)
    again = operator.runs("pause", identifier)
    assert f"was paused already, since {before.since}" in again.stdout
    assert [entry.action for entry in services.audit.latest()].count("pause") == 1


def test_pausing_a_stream_that_is_paused_for_a_refusal_says_what_is_still_to_be_fixed(operator, services):
    identifier = operator.connects()
    services.circuit_breakers.pause(STREAM, AlertType.ACCESS_DENIED)
    assert "it was paused for Access Denied, since" in operator.runs("pause", identifier).stderr
    assert services.circuit_breakers.get(STREAM).reason == "operator"


@pytest.mark.parametrize("state", ["paused", "failing"])
def test_resuming_after_a_refusal_warns_that_it_may_come_again(operator, services, state):
    identifier = operator.connects()
    if state == "paused":
        services.circuit_breakers.pause(STREAM, AlertType.ACCESS_DENIED)
    else:
        services.circuit_breakers.record_failure(STREAM, AlertType.ACCESS_DENIED, first=1.0, longest=1.0)
    note = f"it was {state} for Access Denied: where that is not fixed, it is {state} again"
    assert note in operator.runs("resume", identifier).stderr


def test_status_has_a_row_for_each_stream_and_one_for_records_without_a_stream(operator, services, queues):
    operator.connects()
    services.counters.enqueued(STREAM, 60)
    services.counters.delivered(STREAM, accepted=40, refused=2)
    services.counters.discarded(STREAM, 7)
    services.counters.retrying(STREAM, "task", 2)
    services.counters.skipped({(STREAM, Skip.ANONYMOUS): 3, (None, Skip.NO_CONNECTION): 5})
    services.circuit_breakers.pause(STREAM, AlertType.ACCESS_DENIED)
    dead_letter_records(services)
    queues.send(STREAM.queue, 4)
    queues.send("audience.changes", 1)
    stream, changes = operator.lists("status")
    assert stream == {
        "id": "firehose.main.us-east-1.stream",
        "configuration": "main",
        "region": "us-east-1",
        "delivery_stream_name": "stream",
        "registered": True,
        "flowing": False,
        "state": "paused",
        "paused_reason": "Access Denied",
        "paused_since": "2027-01-15T08:00:00+00:00",
        "paused_until": None,
        "failures": 0,
        "being_tried": False,
        "queued": 4,
        "in_broker": 10,
        "accepted": 60,
        "delivered": 40,
        "refused": 2,
        "retrying": 2,
        "dead": 3,
        "discarded": 7,
        "skipped": {"anonymous": 3},
        "last_delivery": "2027-01-15T08:00:00+00:00",
        "billed_bytes": 0,
        "saved_bytes": 0,
        "skipped_audiences": {},
    }
    assert changes.keys() == stream.keys()
    assert (changes["id"], changes["state"]) == ("audience.changes", "flowing")
    assert (changes["queued"], changes["skipped"]) == (1, {"no_connection": 5})
    table = operator.runs("status").stdout
    assert "paused: Access Denied, since 2027-01-15T08:00:00+00:00" in table
    assert "anonymous 3" in table


def skip(services, *skips):
    services.skipped_audiences.record(dict(skips))


def test_status_names_the_audiences_that_have_no_connection(operator, services):
    operator.connects(7)
    skip(services, ((5, Skip.NO_CONNECTION), 2), ((6, Skip.NO_CONNECTION), 9), ((7, Skip.NO_CONNECTION), 4))
    message = operator.runs("status").stderr
    assert "no connection for audience 6 (9 changes), 5 (2 changes); make one: audience-firehose" in message
    *_, changes = operator.lists("status")
    assert changes["skipped_audiences"] == {"no_connection": {"6": 9, "5": 2}}


def test_status_says_how_many_audiences_without_a_connection_it_does_not_name(operator, services):
    skip(services, *(((audience, Skip.NO_CONNECTION), 1) for audience in range(1005)))
    message = operator.runs("status").stderr
    assert (
        "and 990 other audiences (--json lists them); 5 changes of further audiences, not listed" in message
    )


def test_an_audience_that_is_connected_leaves_the_list_of_those_without_a_connection(operator, services):
    skip(services, ((7, Skip.NO_CONNECTION), 2), ((8, Skip.NO_CONNECTION), 1))
    operator.connects(7)
    assert services.skipped_audiences.all()[Skip.NO_CONNECTION].by_audience == {8: 1}
    assert "7 (" not in operator.runs("status").stderr


@pytest.fixture
def failing(operator, services, clock):
    """A stream that failed, and is left alone for eight seconds."""
    operator.connects()
    breakers = CircuitBreakers(services.redis, clock, jitter=lambda low, high: high)
    breakers.record_failure(STREAM, AlertType.INTERNAL_SERVER_ERROR, first=8, longest=60)


def pauses(row):
    names = ("flowing", "state", "paused_reason", "paused_since", "paused_until", "failures", "being_tried")
    return tuple(row[name] for name in names)


def test_status_says_when_a_failing_stream_is_tried_again(operator, failing):
    stream, _ = operator.lists("status")
    since, until = "2027-01-15T08:00:00+00:00", "2027-01-15T08:00:08+00:00"
    assert pauses(stream) == (False, "failing", "500 - Internal Server Error", since, until, 1, False)
    message = f"failing: 500 - Internal Server Error, 1 failure since {since}; next probe at 08:00:08 UTC"
    assert message in operator.runs("status").stdout


def test_status_says_that_a_failing_stream_is_being_tried(operator, services, clock, failing):
    clock.now += 8
    stream, _ = operator.lists("status")
    assert (stream["flowing"], stream["state"], stream["being_tried"]) == (False, "failing", True)
    assert "; one batch probes it" in operator.runs("status").stdout


def test_a_stream_without_connections_has_no_breaker_any_more(operator, services, failing):
    second = operator.connects(8)
    (first,) = set(services.registry.refresh().connections) - {second}
    operator.runs("disconnect", first)
    assert services.circuit_breakers.get(STREAM)
    operator.runs("disconnect", second)
    assert not services.circuit_breakers.all()


def test_status_shows_a_stream_whose_circuit_breaker_is_corrupt(operator, services):
    operator.connects()
    services.redis.hset(PAUSED_KEY, STREAM.queue, "no JSON")
    assert "paused: unreadable, since an unknown time" in operator.runs("status").stdout


def test_status_shows_a_stream_that_only_has_dead_letters_left(operator, services):
    dead_letter_records(services)
    stream, _ = operator.lists("status")
    assert (stream["id"], stream["registered"], stream["dead"]) == (STREAM.queue, False, 3)
    assert "not connected" in operator.runs("status").stdout


def test_status_is_narrowed_to_a_state_a_configuration_a_name_and_a_region(operator, services):
    operator.connects(7, "flows")
    operator.connects(8, "stops", "--region", "eu-west-1")
    services.circuit_breakers.pause(Stream("main", "eu-west-1", "stops"), OPERATOR)

    def listed(*options):
        return [row["delivery_stream_name"] for row in operator.lists("status", *options)]

    assert listed("--state", "paused") == ["stops"]
    assert listed("--state", "not connected") == []
    assert listed("--configuration", "main") == ["stops", "flows"]
    assert listed("--stream", "flows") == ["flows"]
    assert listed("--region", "eu-west-1") == ["stops"]
    assert listed() == ["stops", "flows", None]


def test_status_without_a_broker_shows_the_rest_and_fails(operator, services, no_broker):
    operator.connects()
    services.counters.delivered(STREAM, accepted=40, refused=0)
    result = operator.tries("status", "--json")
    stream = json.loads(result.stdout.splitlines()[0])
    assert (stream["queued"], stream["delivered"]) == (None, 40)
    assert result.exit_code == 1
    assert "CELERY_BROKER_URL" in result.stderr


def test_status_tells_people_that_no_worker_answers(operator):
    operator.connects()

    assert "no worker answers" in operator.runs("status").stderr
    assert operator.runs("status", "--json").stderr == ""
