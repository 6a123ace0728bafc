"""configure, connect, connections, configurations, disconnect."""

import pytest

from schemas.identities import Catalogue
from worker.cli import settings
from worker.config import read_settings
from worker.failures.alert_types import AlertType, Failure
from worker.failures.dead_lettering import Undeliverable
from worker.failures.dead_letters import Message
from worker.queues import Stream

SECRET = "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY"
KEY = ("--access-key-id", "AKIAIOSFODNN7EXAMPLE", "--secret-access-key-stdin")
ROLE = "arn:aws:iam::123456789012:role/forwarder"
STREAM = Stream("main", "us-east-1", "stream")
CONNECT = ("connect", 7, "--configuration", "main", "--delivery-stream-name", "stream")


def test_a_secret_is_read_from_stdin_stored_encrypted_and_never_shown(operator, services):
    operator.runs("configure", "main", *KEY, stdin=f"{SECRET}\n")
    stored = services.registry.snapshot().configurations["main"].secret_access_key
    assert stored != SECRET
    assert services.cipher.decrypt(stored) == SECRET
    shown = operator.runs("configurations").output + operator.runs("configurations", "--json").output
    assert "AKIAIOSFODNN7EXAMPLE" in shown
    assert SECRET not in shown
    assert stored not in shown


def test_a_configuration_is_listed_with_each_setting_under_its_name(operator):
    operator.runs("configure", "main", "--role-arn", ROLE, "--external-id", "shared-with-nobody")
    assert operator.lists("configurations") == [
        {
            "id": "main",
            "name": "main",
            "access_key_id": None,
            "secret_access_key": None,
            "session_token": None,
            "role_arn": ROLE,
            "external_id": "set",
            "send_remove_on_identity_change": True,
        }
    ]


TEMPORARY = ("--access-key-id", "ASIAIOSFODNN7EXAMPLE", "--secret-access-key-stdin", "--session-token-stdin")
TOKEN = "IQoJb3JpZ2luX2VjEXAMPLETOKEN/+=="


def test_a_session_token_is_the_line_after_the_secret_stored_encrypted_and_never_shown(operator, services):
    operator.runs("configure", "main", *TEMPORARY, stdin=f"{SECRET}\n{TOKEN}\n")
    configuration = services.registry.snapshot().configurations["main"]
    assert services.cipher.decrypt(configuration.secret_access_key) == SECRET
    assert services.cipher.decrypt(configuration.session_token) == TOKEN
    shown = operator.runs("configurations").output + operator.runs("configurations", "--json").output
    assert TOKEN not in shown + repr(configuration)
    assert configuration.session_token not in shown + repr(configuration)
    assert operator.lists("configurations")[0]["session_token"] == "set"


@pytest.mark.parametrize("stdin", ["", SECRET, f"{SECRET}\n{TOKEN}\nmore\n"])
def test_a_secret_without_its_session_token_on_stdin_is_refused(operator, services, stdin):
    assert "and below it the token" in operator.fails("configure", "main", *TEMPORARY, stdin=stdin)
    assert not services.registry.snapshot().configurations


def test_a_session_token_is_renewed_alone_and_leaves_with_its_key_or_secret(operator, services):
    def token():
        return services.registry.snapshot().configurations["main"].session_token

    operator.runs("configure", "main", *TEMPORARY, stdin=f"{SECRET}\n{TOKEN}\n")
    operator.runs("configure", "main", "--session-token-stdin", stdin="another")
    assert services.cipher.decrypt(token()) == "another"
    operator.runs("configure", "main", *KEY, stdin=SECRET)
    assert token() is None
    operator.runs("configure", "main", *TEMPORARY, stdin=f"{SECRET}\n{TOKEN}\n")
    operator.runs("configure", "main", "--access-key-id", "")
    assert token() is None


def test_a_session_token_needs_an_access_key(operator, services):
    message = operator.fails("configure", "main", "--session-token-stdin", stdin=TOKEN)
    assert "a session token goes with its access key" in message
    assert not services.registry.snapshot().configurations


@pytest.fixture
def endpoint(monkeypatch):
    """Set whether botocore has the endpoint of a local Firehose."""

    def set_endpoint(url):
        found = read_settings({"AWS_ENDPOINT_URL_FIREHOSE": url} if url else {})
        monkeypatch.setattr(settings, "current_settings", lambda: found)

    return set_endpoint


def test_the_key_of_a_local_stand_in_is_taken_where_an_endpoint_is_set(operator, services, endpoint):
    command = ("configure", "main", "--access-key-id", "test", "--secret-access-key-stdin")
    endpoint(None)
    assert "set AWS_ENDPOINT_URL_FIREHOSE" in operator.fails(*command, stdin="test")
    assert not services.registry.snapshot().configurations
    endpoint("http://localhost:4566")
    operator.runs(*command, stdin="test")
    assert services.registry.snapshot().configurations["main"].access_key_id == "test"


ARN = "arn:aws:firehose:eu-west-1:123456789012:deliverystream/members"
BY_ARN = ("connect", 7, "--configuration", "main", "--delivery-stream-name")


@pytest.mark.parametrize("region", [(), ("--region", "eu-west-1")])
def test_a_stream_s_arn_says_its_name_and_its_region(operator, region):
    operator.runs("configure", "main")
    operator.runs(*BY_ARN, ARN, *region)
    (row,) = operator.lists("connections")
    assert (row["delivery_stream_name"], row["region"]) == ("members", "eu-west-1")


WRONG_ARNS = {
    "another region than --region": ((ARN, "--region", "us-east-1"), "contradicts the stream's ARN"),
    "a region of another partition": ((ARN.replace("arn:aws:", "arn:aws-cn:"),), "not a region of aws-cn"),
    "an unknown region": ((ARN.replace("eu-west-1", "eu-west-9"),), "botocore knows no region 'eu-west-9'"),
    "a Kinesis data stream": (
        ("arn:aws:kinesis:eu-west-1:123456789012:stream/members",),
        "not the ARN of a delivery stream",
    ),
    "an ARN that is cut off": ((ARN[:-8],), "not the ARN of a delivery stream"),
}


@pytest.mark.parametrize(("arguments", "message"), WRONG_ARNS.values(), ids=WRONG_ARNS)
def test_an_arn_that_cannot_be_a_stream_s_is_refused(operator, arguments, message):
    operator.runs("configure", "main")
    assert message in operator.fails(*BY_ARN, *arguments)
    assert operator.lists("connections") == []


def test_changing_one_setting_keeps_the_others_and_the_secret(operator, services):
    assert "configured main" in operator.runs("configure", "main", *KEY, stdin=SECRET).stdout
    changed = operator.runs("configure", "main", "--no-send-remove-on-identity-change")
    assert "updated main" in changed.stdout
    configuration = services.registry.snapshot().configurations["main"]
    assert configuration.send_remove_on_identity_change is False
    assert configuration.access_key_id == "AKIAIOSFODNN7EXAMPLE"
    assert services.cipher.decrypt(configuration.secret_access_key) == SECRET


def test_an_empty_value_removes_a_setting_and_a_removed_key_takes_its_secret_along(operator):
    operator.runs("configure", "main", *KEY, "--role-arn", ROLE, stdin=SECRET)
    operator.runs("configure", "main", "--access-key-id", "")
    (row,) = operator.lists("configurations")
    assert (row["access_key_id"], row["secret_access_key"], row["role_arn"]) == (None, None, ROLE)


def test_another_access_key_does_not_get_the_secret_of_the_first(operator):
    operator.runs("configure", "main", *KEY, stdin=SECRET)
    assert "needs its own secret" in operator.fails(
        "configure", "main", "--access-key-id", "AKIAOTHER00000000000"
    )
    (row,) = operator.lists("configurations")
    assert row["access_key_id"] == "AKIAIOSFODNN7EXAMPLE"


@pytest.mark.parametrize("stdin", ["", "\n", "two\nlines\n"])
def test_a_malformed_secret_is_refused(operator, services, stdin):
    assert "stdin must hold the secret" in operator.fails("configure", "main", *KEY, stdin=stdin)
    assert not services.registry.snapshot().configurations


def test_what_operators_do_to_settings_is_in_the_audit_list_without_values(operator, services):
    operator.runs("configure", "main", *KEY, stdin=SECRET)
    connection = operator.runs(*CONNECT).stdout.split()[1]
    operator.runs("pause", connection)
    operator.runs("resume", connection)
    operator.runs("disconnect", connection)
    entries = services.audit.latest()
    assert [(entry.action, entry.subject) for entry in reversed(entries)] == [
        ("configure", "main"),
        ("connect", connection),
        ("pause", STREAM.queue),
        ("resume", STREAM.queue),
        ("disconnect", connection),
    ]
    assert entries[-1].detail == "access_key_id, secret_access_key"
    assert SECRET not in repr(entries)


def test_a_wrong_setting_is_named(operator):
    assert "the name must match" in operator.fails("configure", "Main Account")
    assert "role_arn" in operator.fails("configure", "main", "--role-arn", "forwarder")


def test_connecting_twice_is_one_connection_and_keeps_what_is_not_mentioned(operator):
    operator.runs("configure", "main")
    first = operator.runs(
        *CONNECT, "--no-forward-idfas", "--exclude", "Other", "--exclude", "FacebookId"
    ).stdout
    second = operator.runs(*CONNECT, "--no-append-newline").stdout
    assert first.split()[0] == "connected"
    assert second.split()[0] == "updated"
    (row,) = operator.lists("connections")
    assert row == {
        "id": first.split()[1],
        "audience_id": 7,
        "configuration": "main",
        "delivery_stream_name": "stream",
        "region": "us-east-1",
        "send_anonymous_users": True,
        "forward_email_addresses": True,
        "forward_customer_ids": True,
        "forward_idfas": False,
        "forward_google_advertising_ids": True,
        "identities_to_exclude": ["FacebookId", "Other"],
        "append_newline": False,
        "include_metadata": False,
        "aggregate_records": False,
        "stream_quota": None,
    }


def test_a_switch_can_be_turned_back_and_exclusions_be_lifted(operator):
    operator.connects(7, "stream", "--no-send-anonymous-users", "--exclude", "Other")
    operator.runs(*CONNECT, "--send-anonymous-users", "--exclude", "")
    (row,) = operator.lists("connections")
    assert row["send_anonymous_users"] is True
    assert row["identities_to_exclude"] == []


def test_a_stream_s_quota_is_kept_until_it_is_lifted(operator, services):
    operator.connects(7, "stream", "--stream-quota", "1MiB/s+200requests/s")
    operator.runs(*CONNECT, "--no-forward-idfas")
    (row,) = operator.lists("connections")
    assert (row["stream_quota"], row["forward_idfas"]) == ("1MiB/s+200requests/s", False)
    assert services.registry.snapshot().quota(STREAM).requests == 200
    operator.runs(*CONNECT, "--stream-quota", "")
    (row,) = operator.lists("connections")
    assert (row["stream_quota"], row["forward_idfas"]) == (None, False)
    assert services.registry.snapshot().quota(STREAM).requests == 2_000


def test_a_new_connection_may_be_made_with_an_empty_quota(operator):
    operator.connects(7, "stream", "--stream-quota", "")
    assert [row["stream_quota"] for row in operator.lists("connections")] == [None]


def test_a_malformed_quota_is_refused(operator):
    operator.runs("configure", "main")
    assert "'1MB' is not a quota such as 1MiB/s" in operator.fails(*CONNECT, "--stream-quota", "1MB")
    assert operator.lists("connections") == []


def test_a_quota_above_another_connection_s_gives_a_note_that_it_does_not_count(operator):
    assert "smallest" not in operator.connects(7, "stream", "--stream-quota", "1MiB/s")
    same = ("connect", 8, *CONNECT[2:], "--stream-quota")
    assert "another connection sets a smaller quota for stream" in operator.runs(*same, "2MiB/s").stderr
    assert operator.runs(*same, "1MiB/s").stderr == ""
    assert operator.runs(*same, "512KiB/s+9requests/s").stderr == ""


def test_another_region_is_another_connection(operator):
    operator.connects()
    operator.runs(*CONNECT, "--region", "eu-west-1")
    assert {row["region"] for row in operator.lists("connections")} == {"us-east-1", "eu-west-1"}


def test_the_table_shows_what_differs_from_the_defaults(operator):
    quota = ("--stream-quota", "1MiB/s+200requests/s")
    identifier = operator.connects(7, "stream", "--no-forward-idfas", "--exclude", "Other", *quota)
    heading, line = operator.runs("connections").stdout.splitlines()
    assert heading.split() == ["ID", "AUDIENCE", "CONFIGURATION", "STREAM", "REGION", "OPTIONS"]
    assert line.split() == [
        *(identifier, "7", "main", "stream", "us-east-1", "--no-forward-idfas", *quota, "--exclude", "Other")
    ]


def test_an_unknown_identity_is_refused_with_near_names(operator):
    operator.runs("configure", "main")
    message = operator.fails(*CONNECT, "--exclude", "facebookid")
    assert "did you mean FacebookId?" in message
    assert "the names are" in operator.fails(*CONNECT, "--exclude", "zzz")
    assert operator.lists("connections") == []


def test_identities_are_given_and_shown_by_their_configured_names(operator, services, monkeypatch):
    operator.runs("configure", "main")
    renamed = type("Renamed", (), {"catalogue": Catalogue({"FacebookId": "Fb"})})
    monkeypatch.setattr(settings, "current_settings", lambda: renamed)
    operator.runs(*CONNECT, "--exclude", "Fb")
    (connection,) = services.registry.snapshot().connections.values()
    assert connection.identities_to_exclude == ("FacebookId",)
    assert operator.lists("connections")[0]["identities_to_exclude"] == ["Fb"]


def test_a_connection_needs_a_configuration_and_a_region_that_exist(operator):
    assert "audience-firehose configure main" in operator.fails(*CONNECT)
    operator.runs("configure", "main")
    assert "us-east-1" in operator.fails(*CONNECT, "--region", "us-eest-1")


def test_connecting_to_a_paused_stream_says_so(operator, services):
    operator.runs("configure", "main")
    services.circuit_breakers.pause(Stream("main", "us-east-1", "stream"), "Access Denied")
    assert "paused (Access Denied)" in operator.runs(*CONNECT).stderr
    assert "paused (Access Denied)" in operator.runs("configure", "main").stderr


def test_connecting_to_a_failing_stream_says_that_it_flows_again_by_itself(operator, services):
    operator.runs("configure", "main")
    services.circuit_breakers.record_failure(
        Stream("main", "us-east-1", "stream"), "500", first=60, longest=60
    )
    assert "failing (500): batches probe it until it takes one" in operator.runs(*CONNECT).stderr


def test_disconnecting_says_what_remains_in_a_queue_that_nobody_consumes(operator, queues):
    first = operator.connects(7)
    second = operator.connects(8)
    queues.send("firehose.main.us-east-1.stream", 2)
    assert operator.runs("disconnect", first).stderr == ""
    message = operator.runs("disconnect", second).stderr
    assert "firehose.main.us-east-1.stream still holds 2 messages" in message
    assert operator.lists("connections") == []


def test_disconnecting_says_how_many_dead_letters_stay(operator, services, queues):
    identifier = operator.connects()
    message = Message(STREAM.task, STREAM.queue, {})
    failure = Failure(AlertType.ACCESS_DENIED, "AccessDeniedException", "?")
    services.dead_lettering.dead_letter(
        Undeliverable("letter", message, failure, 1, STREAM, connection_ids=[identifier])
    )
    note = operator.runs("disconnect", identifier).stderr
    assert f"1 dead letter of it left: `audience-firehose discard --all --connection {identifier}`" in note


def test_disconnecting_works_without_a_broker(operator, no_broker):
    identifier = operator.connects()
    assert "broker cannot be reached" in operator.runs("disconnect", identifier).stderr
    assert operator.lists("connections") == []


def test_an_unknown_connection_is_refused(operator):
    assert "list them: audience-firehose connections" in operator.fails("disconnect", "7-00000000")


def test_an_empty_listing_says_what_to_do_but_not_to_a_program(operator):
    empty = operator.runs("connections")
    assert empty.stdout == ""
    assert "connect --help" in empty.stderr
    assert operator.runs("connections", "--json").output == ""


def test_connections_are_narrowed_to_an_audience_a_configuration_a_stream_and_a_region(operator):
    first = operator.connects(7, "first")
    second = operator.connects(8, "second", "--region", "eu-west-1")

    def listed(*options):
        return [row["id"] for row in operator.lists("connections", *options)]

    assert listed("--audience", 7) == listed("--stream", "first") == [first]
    assert listed("--region", "eu-west-1") == [second]
    assert listed("--configuration", "main") == [first, second]
    assert listed("--audience", 7, "--region", "eu-west-1") == []
    assert "no such connections" in operator.runs("connections", "--audience", 9).stderr


def test_configurations_are_narrowed_to_a_role_and_to_those_that_no_connection_uses(operator):
    operator.connects()
    role = "arn:aws:iam::123456789012:role/forwarder"
    operator.runs("configure", "role", "--role-arn", role)

    def listed(*options):
        return [row["id"] for row in operator.lists("configurations", *options)]

    assert listed("--role-arn", role) == listed("--unused") == ["role"]
    assert listed() == ["main", "role"]


def test_a_program_is_given_what_a_command_has_changed(operator):
    (configuration,) = operator.lists("configure", "main")
    assert (configuration["id"], configuration["secret_access_key"]) == ("main", None)
    stream = ("--configuration", "main", "--delivery-stream-name", "stream")
    (connection,) = operator.lists("connect", 7, *stream)
    assert (connection["audience_id"], connection["region"]) == (7, "us-east-1")
    assert operator.lists("pause", connection["id"]) == [
        {"id": "firehose.main.us-east-1.stream", "paused": True}
    ]
    assert operator.lists("resume", connection["id"])[0]["resumed"] is True
    assert operator.lists("resume", connection["id"])[0]["resumed"] is False
    assert operator.lists("disconnect", connection["id"]) == [{"id": connection["id"], "disconnected": True}]


def test_the_audit_list_is_narrowed_to_an_action_a_subject_and_a_time(operator, clock):
    connection = operator.connects()
    clock.now += 7200
    operator.runs("pause", connection)

    def listed(*options):
        return [row["action"] for row in operator.lists("audit", *options)]

    assert listed() == ["pause", "connect", "configure"]
    assert listed("--action", "connect") == listed("--subject", connection) == ["connect"]
    assert listed("--since", "1h") == listed("--limit", 1) == ["pause"]
    assert listed("--who", "nobody") == []
