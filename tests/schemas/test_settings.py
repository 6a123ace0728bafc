"""Settings: the documented defaults, and what is refused."""

import pytest
from marshmallow import ValidationError

from schemas.checking import sentences
from schemas.settings import Configuration, ConfigurationSchema, Connection, ConnectionSchema

CONNECTION = {"audience_id": 1, "configuration": "main", "delivery_stream_name": "travel"}
ROLE = "arn:aws:iam::123456789012:role/firehose"


def configuration(**settings):
    return ConfigurationSchema().load({"name": "main"} | settings)


def connection(**settings):
    return ConnectionSchema().load(CONNECTION | settings)


def problems(schema, settings):
    with pytest.raises(ValidationError) as caught:
        schema.load(settings)
    return sentences(schema, caught.value)


def test_the_defaults_of_a_configuration():
    made = configuration()
    assert made == Configuration("main", None, None, None, None, send_remove_on_identity_change=True)


def test_the_defaults_of_a_connection():
    assert connection() == Connection(
        audience_id=1,
        configuration="main",
        delivery_stream_name="travel",
        region="us-east-1",
        send_anonymous_users=True,
        forward_email_addresses=True,
        forward_customer_ids=True,
        forward_idfas=True,
        forward_google_advertising_ids=True,
        identities_to_exclude=(),
        append_newline=True,
        stream_quota=None,
    )


def test_a_configuration_does_not_show_its_secrets():
    made = configuration(
        access_key_id="A" * 16, secret_access_key="secretive", role_arn=ROLE, external_id="secretive"
    )
    assert "secretive" not in repr(made)


@pytest.mark.parametrize("name", ["a", "x" * 32, "team-1"])
def test_a_name_of_a_configuration_is_accepted(name):
    assert configuration(name=name).name == name


@pytest.mark.parametrize("name", ["", "x" * 33, "Main", "a.b", "a b", "main\n", "ä"])
def test_a_wrong_name_of_a_configuration_is_refused(name):
    assert problems(ConfigurationSchema(), {"name": name}) == ["name: the name must match [a-z0-9-]{1,32}"]


@pytest.mark.parametrize("name", ["a", "A.b_c-9", "x" * 64])
def test_a_name_of_a_stream_is_accepted(name):
    assert connection(delivery_stream_name=name).delivery_stream_name == name


@pytest.mark.parametrize("name", ["", "x" * 65, "a b", "a/b", "travel\n", "ä"])
def test_a_wrong_name_of_a_stream_is_refused(name):
    assert problems(ConnectionSchema(), CONNECTION | {"delivery_stream_name": name}) == [
        "delivery_stream_name: a delivery stream's name must match [a-zA-Z0-9_.-]{1,64}"
    ]


@pytest.mark.parametrize(
    "role",
    [ROLE, "arn:aws-cn:iam::123456789012:role/path/to/role", "arn:aws-us-gov:iam::123456789012:role/r"],
)
def test_a_role_of_any_partition_is_accepted(role):
    assert configuration(role_arn=role).role_arn == role


REFUSED_CONFIGURATIONS = {
    "an access key without its secret": (
        {"access_key_id": "A" * 16},
        "access_key_id: an access key ID and a secret access key go together",
    ),
    "a secret without its access key": (
        {"secret_access_key": "secretive"},
        "access_key_id: an access key ID and a secret access key go together",
    ),
    "an external ID without a role": (
        {"external_id": "secretive"},
        "external_id: an external ID goes with a role's ARN",
    ),
    "a user's ARN as role": (
        {"role_arn": "arn:aws:iam::123456789012:user/secretive"},
        r"role_arn: a role's ARN must match arn:aws[a-z-]*:iam::\d{12}:role/[\w+=,.@/-]{1,512}",
    ),
    "an access key that cannot be one": (
        {"access_key_id": "secretive key", "secret_access_key": "x"},
        r"access_key_id: an access key ID must match \w{4,128}",
    ),
    "an unknown setting": ({"secretive": 1}, "unknown key"),
}


@pytest.mark.parametrize(("settings", "problem"), REFUSED_CONFIGURATIONS.values(), ids=REFUSED_CONFIGURATIONS)
def test_a_wrong_configuration_is_refused_with_the_problem(settings, problem):
    found = problems(ConfigurationSchema(), {"name": "main"} | settings)
    assert found == [problem]
    assert "secretive" not in repr(found)


REFUSED_CONNECTIONS = {
    "no stream": ({"delivery_stream_name": None}, "delivery_stream_name: field may not be null"),
    "a text as audience": ({"audience_id": "1"}, "audience_id: not an integer"),
    "a region that cannot be one": ({"region": "US East"}, "region: a region must match [a-z0-9-]{1,32}"),
    "an exclusion of no identity": (
        {"identities_to_exclude": ["E-Mail"]},
        "identities_to_exclude: unknown identity name",
    ),
    "a quota that is none": (
        {"stream_quota": "200requests/s+1MB"},
        "stream_quota: '1MB' is not a quota such as 1MiB/s, 200requests/s or 50000records/s",
    ),
    "aggregated records without newlines": (
        {"aggregate_records": True, "append_newline": False},
        "aggregate_records: needs append_newline: nothing else parts the lines",
    ),
    "a number as quota": ({"stream_quota": 200}, "stream_quota: not a string"),
    "an unknown setting": ({"append_newlines": True}, "unknown key"),
}


@pytest.mark.parametrize(("settings", "problem"), REFUSED_CONNECTIONS.values(), ids=REFUSED_CONNECTIONS)
def test_a_wrong_connection_is_refused_with_the_problem(settings, problem):
    assert problems(ConnectionSchema(), CONNECTION | settings) == [problem]


def test_exclusions_are_a_set():
    made = connection(identities_to_exclude=["Other", "Email", "Other"])
    assert made.identities_to_exclude == ("Email", "Other")


@pytest.mark.parametrize("quota", ["1MiB/s", "1MiB/s+200requests/s", None])
def test_a_quota_is_kept_as_it_was_written(quota):
    assert connection(stream_quota=quota).stream_quota == quota
