"""The names that other apps, operators and consumers rely on, one by one: docs/contract.md."""

import json
from dataclasses import fields

import pytest

from schemas.changes import ChangeSchema, ChangeType
from schemas.identities import ROWS, Catalogue
from schemas.records import DELETION, RECORD
from schemas.settings import Configuration, Connection
from worker.celery import app
from worker.config import read_settings
from worker.failures.alert_types import AlertType, Failure
from worker.firehose.regions import regions
from worker.queues import CHANGES_QUEUE, Stream

WARNINGS = ["500 - Internal Server Error", "Invalid Change", "Record Too Large", "Worker Trouble"]
FATAL = [
    "Retry Limit Exceeded",
    "Invalid Credentials",
    "Access Denied",
    "Stream Not Found",
    "Invalid Request",
    "No Workers",
]


def test_the_names_of_tasks():
    app.loader.import_default_modules()
    # Tests of the benchmarks load tasks of their own.
    ours = {name for name, task in app.tasks.items() if task.__module__.startswith("tasks.")}
    delivery = {f"audience.deliver.{region}" for region in regions()}
    assert ours == {"audience.forward", "audience.forward_mparticle", "audience.forward_run"} | delivery


def test_the_names_of_queues():
    assert CHANGES_QUEUE == "audience.changes"
    assert Stream("main", "us-east-1", "travel").queue == "firehose.main.us-east-1.travel"


def test_the_keys_of_a_change():
    assert list(ChangeSchema(Catalogue()).fields) == [
        "type",
        "audience_id",
        "audience_external_name",
        "audience_internal_name",
        "timestamp",
        "user_identities",
        "previous_user_identities",
    ]
    assert list(ChangeType) == ["member_added", "member_removed", "identity_changed", "audience_deleted"]


def test_the_keys_of_a_record():
    keys = ["MembershipChangedTimestamp", "AudienceId", "AudienceName", "IsMember", "UserIdentities"]
    assert [field.data_key for field in RECORD.dump_fields.values()] == keys
    assert [field.data_key for field in DELETION.dump_fields.values()] == [*keys, "IsDeleted"]


def test_the_names_of_identities():
    assert {row.name for row in ROWS} == {
        "CustomerId",
        "Email",
        "FacebookId",
        "GoogleId",
        "MicrosoftId",
        "MPID",
        "Other",
        *(f"Other{number}" for number in range(2, 11)),
        *("MobileNumber", "PhoneNumber2", "PhoneNumber3"),
        "TwitterId",
        "YahooId",
        "AndroidId",
        "GoogleAdvertisingIdentifier",
        "AppleAdvertisingIdentifier",
        "AppleVendorIdentifier",
        "FireAdvertisingId",
        "MicrosoftAdvertisingId",
        "RokuAdvertisingIdentifier",
        "RokuPublisherId",
    }


def test_the_settings_of_a_configuration_and_their_defaults():
    assert {field.name: field.default for field in fields(Configuration) if field.name != "name"} == {
        "access_key_id": None,
        "session_token": None,
        "secret_access_key": None,
        "role_arn": None,
        "external_id": None,
        "send_remove_on_identity_change": True,
    }


def test_the_settings_of_a_connection_and_their_defaults():
    required = {"audience_id", "configuration", "delivery_stream_name"}
    assert {field.name: field.default for field in fields(Connection) if field.name not in required} == {
        "region": "us-east-1",
        "send_anonymous_users": True,
        "forward_email_addresses": True,
        "forward_customer_ids": True,
        "forward_idfas": True,
        "forward_google_advertising_ids": True,
        "identities_to_exclude": (),
        "append_newline": True,
        "include_metadata": False,
        "aggregate_records": False,
        "stream_quota": None,
    }


def test_the_fields_of_an_alert(services, redis):
    services.alerts.raise_alert(Failure(AlertType.INVALID_CHANGE, "ValidationError", "1 of 1 invalid"))
    (entry,) = redis.lrange("audience:alerts", 0, -1)
    assert list(json.loads(entry)) == [
        "id",
        "type",
        "severity",
        "raised_at",
        "connection_ids",
        "audience_ids",
        "delivery_stream_name",
        "region",
        "error_code",
        "message",
        "attempts",
        "records",
        "dead_letter_id",
        "occurrences",
        "last_raised_at",
        "aws_message",
        "request_id",
        "task",
        "task_id",
        "origin",
    ]


def test_the_types_of_alerts():
    assert set(AlertType) == {*WARNINGS, *FATAL}


@pytest.mark.parametrize("alert_type", WARNINGS)
def test_types_of_severity_warning(alert_type):
    assert AlertType(alert_type).severity == "warning"


@pytest.mark.parametrize("alert_type", FATAL)
def test_types_of_severity_fatal(alert_type):
    assert AlertType(alert_type).severity == "fatal"


def test_the_defaults_of_environment_variables():
    environment = read_settings({})
    assert environment.broker_url == "redis://localhost:6379/0"
    assert environment.redis_url == "redis://localhost:6379/1"
    assert environment.secret_keys == ()
    assert (environment.retry_backoff, environment.retry_backoff_max) == (1, 600)
    assert environment.visibility_timeout > 600


VARIABLES = {
    "CELERY_BROKER_URL": ("broker_url", "amqp://rabbit//"),
    "AUDIENCE_REDIS_URL": ("redis_url", "redis://state/2"),
    "AUDIENCE_SECRET_KEY": ("secret_keys", f"{'a' * 43}="),
    "AUDIENCE_RATE_LIMITS": ("rate_limits", "eu-west-1=10/s,us-east-1=50/s"),
    "AUDIENCE_STREAM_QUOTAS": ("stream_quotas", "eu-west-1=1MiB/s"),
    "AUDIENCE_RETRY_MAX": ("retry_max", "3"),
    "AUDIENCE_RETRY_BACKOFF": ("retry_backoff", "2"),
    "AUDIENCE_RETRY_BACKOFF_MAX": ("retry_backoff_max", "60"),
    "AUDIENCE_VISIBILITY_TIMEOUT": ("visibility_timeout", "7200"),
}


@pytest.mark.parametrize(("variable", "setting"), VARIABLES.items())
def test_an_environment_variable_sets_its_setting(variable, setting):
    name, value = setting
    assert getattr(read_settings({variable: value}), name) != getattr(read_settings({}), name)
