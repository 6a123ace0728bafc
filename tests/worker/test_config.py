"""The environment: every variable, its default, and what is said of a wrong one."""

import random
from statistics import quantiles

import pytest
from celery.utils.time import get_exponential_backoff_interval
from cryptography.fernet import Fernet

from schemas.quotas import default_quota
from worker.config import read_settings, verifies_certificate
from worker.errors import SettingError
from worker.firehose.regions import regions

FOUR_HOURS = 4 * 3600


def test_every_setting_has_its_default():
    environment = read_settings({})
    assert environment.broker_url == "redis://localhost:6379/0"
    assert environment.redis_url == "redis://localhost:6379/1"
    assert environment.secret_keys == ()
    assert environment.regions == set(regions())
    assert environment.rate_limits == {}
    assert environment.stream_quotas == {}
    assert environment.retry_backoff == 1
    assert environment.retry_backoff_max == 600
    assert environment.visibility_timeout > environment.retry_backoff_max
    assert environment.firehose_timeout == 30
    assert "Email" in environment.catalogue.names


def test_a_variable_that_is_set_replaces_the_default():
    first, second = (Fernet.generate_key().decode() for _ in range(2))
    environment = read_settings(
        {
            "CELERY_BROKER_URL": "amqp://rabbit//",
            "AUDIENCE_REDIS_URL": "rediss://state:6380/3",
            "AUDIENCE_SECRET_KEY": f"{first}, {second}",
            "AUDIENCE_REGIONS": "eu-west-1, us-east-1",
            "AUDIENCE_RATE_LIMITS": "eu-west-1=10/s, us-east-1=600/m",
            "AUDIENCE_STREAM_QUOTAS": "eu-west-1=1MiB/s, us-gov-west-1=9requests/s+7records/s",
            "AUDIENCE_RETRY_MAX": "5",
            "AUDIENCE_RETRY_BACKOFF": "2",
            "AUDIENCE_RETRY_BACKOFF_MAX": "30",
            "AUDIENCE_VISIBILITY_TIMEOUT": "31",
            "AUDIENCE_FIREHOSE_TIMEOUT": "4",
            "AUDIENCE_IDENTITY_NAMES": "Email=EmailAddress,MPID=Id",
        }
    )
    assert environment.broker_url == "amqp://rabbit//"
    assert environment.redis_url == "rediss://state:6380/3"
    assert environment.secret_keys == (first, second)
    assert environment.regions == {"eu-west-1", "us-east-1"}
    assert environment.rate_limits == {"eu-west-1": "10/s", "us-east-1": "600/m"}
    assert environment.stream_quotas == {
        "eu-west-1": default_quota("eu-west-1")._replace(bytes=2**20),
        "us-gov-west-1": default_quota("us-gov-west-1")._replace(requests=9, records=7),
    }
    assert (environment.retry_max, environment.retry_backoff, environment.retry_backoff_max) == (5, 2, 30)
    assert environment.visibility_timeout == 31
    assert environment.firehose_timeout == 4
    assert environment.catalogue.configured_name("Email") == "EmailAddress"
    assert environment.catalogue.anonymous == "Id"


@pytest.mark.parametrize("empty", ["", "  "])
def test_an_empty_variable_is_one_that_is_not_set(empty):
    assert read_settings({"AUDIENCE_RETRY_MAX": empty}) == read_settings({})


def test_the_visibility_timeout_follows_the_longest_backoff():
    environment = read_settings({"AUDIENCE_RETRY_BACKOFF_MAX": "7200"})
    assert environment.visibility_timeout > 7200


REFUSED = {
    "AUDIENCE_RETRY_MAX": ["many", "-1", "1.5", "²"],
    "AUDIENCE_RETRY_BACKOFF": ["0", "1s"],
    "AUDIENCE_RETRY_BACKOFF_MAX": ["-600"],
    "AUDIENCE_VISIBILITY_TIMEOUT": ["0", "600", "an hour"],
    "AUDIENCE_FIREHOSE_TIMEOUT": ["0", "31", "soon"],
    "AUDIENCE_REDIS_URL": [
        *("localhost:6379", "http://redis", "redis://a;rediss://b", "redis://:one@a;redis://:two@b"),
        *("redis://a;", "unix:///a;unix:///b", "redis://a/x", "rediss://a/0/1"),
    ],
    "CELERY_BROKER_URL": ["redis://a/x"],
    "AUDIENCE_SECRET_KEY": ["secretive", "c2VjcmV0aXZl"],
    "AUDIENCE_REGIONS": ["eu", "eu-west-1,eu-west-9", "all", ","],
    "AUDIENCE_RATE_LIMITS": ["10/s", "eu-west-1", "eu-west-1=", "eu-west-1=fast", "eu-west-1=10/d"],
    "AUDIENCE_STREAM_QUOTAS": [
        *("1MiB/s", "eu-west-1", "eu-west-1=", "eu-west-1=fast", "eu-west-1=1MB", "eu-west-1=0MiB/s"),
        *("eu-west-1=1MiB/s+2MiB/s", "eu-west-1=1MiB/s+", "eu-west-1=1MiB/s,eu-west-1=2MiB/s"),
    ],
    "AUDIENCE_IDENTITY_NAMES": ["EMail=email", "Email", "Email=Other"],
}


@pytest.mark.parametrize(
    ("name", "value"), [(name, value) for name, values in REFUSED.items() for value in values]
)
def test_a_wrong_value_is_an_error_that_names_the_variable(name, value):
    with pytest.raises(SettingError, match=f"^{name}: "):
        read_settings({name: value})


@pytest.mark.parametrize(
    ("name", "value"), [("AUDIENCE_RATE_LIMITS", "10/s"), ("AUDIENCE_STREAM_QUOTAS", "1MiB/s")]
)
def test_an_unknown_region_is_named(name, value):
    with pytest.raises(SettingError) as raised:
        read_settings({name: f"us-west-9={value},eu-west-1={value},eu-west-9={value}"})
    assert str(raised.value) == f"{name}: no such region: eu-west-9, us-west-9"


def test_a_wrong_quota_is_shown_with_one_that_is_right():
    with pytest.raises(SettingError, match=r"^AUDIENCE_STREAM_QUOTAS: '1MB' is not a quota such as 1MiB/s"):
        read_settings({"AUDIENCE_STREAM_QUOTAS": "eu-west-1=200requests/s+1MB"})


def test_a_region_that_is_stated_twice_is_refused():
    with pytest.raises(SettingError, match="eu-west-1 stands there twice"):
        read_settings({"AUDIENCE_STREAM_QUOTAS": "eu-west-1=1MiB/s,eu-west-1=1requests/s"})


@pytest.mark.parametrize("variable", ["CELERY_BROKER_URL", "AUDIENCE_REDIS_URL"])
def test_a_url_that_cannot_be_parsed_does_not_show_its_password(variable):
    with pytest.raises(SettingError, match=f"{variable}: .*percent-encode") as raised:
        read_settings({variable: "redis://:secr/etive@host:6379/0"})
    assert "secr" not in str(raised.value)


def test_a_rate_of_nothing_is_refused():
    with pytest.raises(SettingError, match="AUDIENCE_RATE_LIMITS"):
        read_settings({"AUDIENCE_RATE_LIMITS": "eu-west-1=0/s"})


def test_a_wrong_secret_key_is_not_repeated():
    with pytest.raises(SettingError) as caught:
        read_settings({"AUDIENCE_SECRET_KEY": "secretive"})
    assert "secretive" not in str(caught.value)


def test_neither_urls_nor_keys_are_shown():
    environment = read_settings(
        {
            "CELERY_BROKER_URL": "redis://:secretive@broker",
            "AUDIENCE_REDIS_URL": "redis://:secretive@state",
            "AUDIENCE_SECRET_KEY": Fernet.generate_key().decode(),
        }
    )
    assert "secretive" not in repr(environment)
    assert environment.secret_keys[0] not in repr(environment)


def retrying_lasts(environment, seed):
    """Seconds from the first failure to the last retry, with the waits that Celery would draw."""
    random.seed(seed)
    return sum(
        get_exponential_backoff_interval(
            factor=environment.retry_backoff,
            retries=retries,
            maximum=environment.retry_backoff_max,
            full_jitter=True,
        )
        for retries in range(environment.retry_max)
    )


def test_by_default_retries_go_on_for_four_hours():
    lasts = [retrying_lasts(read_settings({}), seed) for seed in range(1000)]
    assert quantiles(lasts, n=1000)[0] >= FOUR_HOURS


SECRETS = {
    "CELERY_BROKER_URL": ("redis://:hunter2@broker/0", "broker_url", "redis://:hunter2@broker/0"),
    "AUDIENCE_REDIS_URL": ("redis://:hunter2@state/1", "redis_url", "redis://:hunter2@state/1"),
    "AUDIENCE_SECRET_KEY": ("A" * 43 + "=", "secret_keys", ("A" * 43 + "=",)),
    "AUDIENCE_ALERT_URLS": ("json://user:hunter2@hook/", "alert_urls", ("json://user:hunter2@hook/",)),
    "FLOWER_BASIC_AUTH": ("user:hunter2", "flower_basic_auth", ("user:hunter2",)),
}


@pytest.mark.parametrize(("name", "secret"), SECRETS.items(), ids=SECRETS)
def test_a_secret_may_come_from_a_file(tmp_path, name, secret):
    text, setting, value = secret
    path = tmp_path / "secret"
    path.write_text(f"{text}\n")
    settings = read_settings({f"{name}_FILE": str(path)})
    assert getattr(settings, setting) == value
    assert "hunter2" not in repr(settings)


def test_a_secret_s_file_that_cannot_be_used_is_named_without_its_content(tmp_path):
    empty, binary = tmp_path / "empty", tmp_path / "binary"
    empty.touch()
    binary.write_bytes(b"\xffhunter2")
    for path, problem in (tmp_path / "none", "No such file"), (empty, "empty"), (binary, "not UTF-8"):
        with pytest.raises(SettingError, match=f"AUDIENCE_SECRET_KEY_FILE: .*{problem}") as raised:
            read_settings({"AUDIENCE_SECRET_KEY_FILE": str(path)})
        assert "hunter2" not in str(raised.value)


def test_a_secret_and_its_file_are_not_both_given(tmp_path):
    path = tmp_path / "url"
    path.write_text("redis://one")
    with pytest.raises(SettingError, match="AUDIENCE_REDIS_URL_FILE: AUDIENCE_REDIS_URL is set, too"):
        read_settings({"AUDIENCE_REDIS_URL": "redis://two", "AUDIENCE_REDIS_URL_FILE": str(path)})


def test_a_misspelt_variable_is_warned_of_with_the_nearest_name_and_without_its_value(caplog):
    read_settings({"AUDIENCE_REDIS_ULR": "redis://:hunter2@state/1", "AUDIENCE_ZZZ": "1", "HOME": "/"})
    assert caplog.messages == [
        "AUDIENCE_REDIS_ULR is not a setting; did you mean AUDIENCE_REDIS_URL?",
        "AUDIENCE_ZZZ is not a setting",
    ]


def test_a_variable_that_is_a_setting_is_not_warned_of(caplog):
    read_settings({"AUDIENCE_REGIONS": "eu-west-1", "AUDIENCE_ENVIRONMENT": "staging"})
    assert caplog.messages == []


@pytest.mark.parametrize("url", ["sqs://", "memory://", "nonsense://host", "localhost:6379"])
def test_a_broker_url_with_a_scheme_that_is_not_promised_is_refused_with_the_list_of_those_that_are(url):
    with pytest.raises(SettingError, match=r"CELERY_BROKER_URL: .*redis://, rediss://.*amqps://"):
        read_settings({"CELERY_BROKER_URL": url})


@pytest.mark.parametrize("url", ["redis://a/0;redis://b/0", "redis://a; rediss://b", "amqp://a;redis://b"])
def test_several_redis_servers_as_the_broker_are_refused_with_what_to_use_in_their_place(url):
    with pytest.raises(SettingError, match=r"several Redis servers.*use sentinel://"):
        read_settings({"CELERY_BROKER_URL": url})


@pytest.mark.parametrize(
    ("url", "verified"),
    [
        ("rediss://host/0", "rediss://host/0?ssl_cert_reqs=required"),
        ("rediss://host/0?ssl_ca_certs=/ca", "rediss://host/0?ssl_ca_certs=/ca&ssl_cert_reqs=required"),
        ("rediss://host/0?ssl_cert_reqs=none", "rediss://host/0?ssl_cert_reqs=none"),
        ("amqps://host", "amqps://host"),
        ("amqp://a;amqp://b", "amqp://a;amqp://b"),
    ],
)
def test_a_tls_broker_is_verified_unless_its_url_says_otherwise(url, verified):
    assert read_settings({"CELERY_BROKER_URL": url}).broker_url == verified


@pytest.mark.parametrize(
    ("url", "verifies"),
    [
        ("redis://host", True),
        ("rediss://host", True),
        ("rediss://host?ssl_cert_reqs=required", True),
        ("rediss://host?ssl_cert_reqs=CERT_NONE", False),
        ("rediss://host?ssl_cert_reqs=none", False),
        ("rediss://host?ssl_cert_reqs=optional", False),
        ("sentinel://host?ssl=true", True),
        ("sentinel://host?ssl_cert_reqs=none", False),
    ],
)
def test_an_unverified_certificate_is_recognized(url, verifies):
    assert verifies_certificate(url) is verifies


@pytest.mark.parametrize(("text", "log_format"), [("", "text"), ("text", "text"), (" json ", "json")])
def test_the_log_format_is_text_unless_json_is_asked_for(text, log_format):
    assert read_settings({"AUDIENCE_LOG_FORMAT": text}).log_format == log_format


def test_another_log_format_is_refused():
    with pytest.raises(SettingError, match="AUDIENCE_LOG_FORMAT: 'xml' is not text or json"):
        read_settings({"AUDIENCE_LOG_FORMAT": "xml"})
