"""URLs of Redis Sentinel."""

import pytest

from worker.config import read_settings
from worker.errors import SettingError
from worker.store.sentinel import parse_sentinel_url


def test_the_database_the_master_and_the_password_hold_for_each_sentinel():
    parsed = parse_sentinel_url("sentinel://:p%40ss@a:1;sentinel://b/3?master_name=main")
    assert parsed.sentinels == [("a", 1), ("b", 26379)]
    assert parsed.master == "main"
    assert parsed.url == "sentinel://:p%40ss@a:1/3;sentinel://:p%40ss@b:26379/3"


def test_without_a_name_the_master_is_the_one_of_the_example_configuration():
    assert parse_sentinel_url("sentinel://a").master == "mymaster"


@pytest.mark.parametrize(
    "text",
    [
        "sentinel://a;redis://b",
        "sentinel://",
        "sentinel://a/0;sentinel://b/1",
        "sentinel://a/x",
        "sentinel://a?mastername=m",
        "sentinel://:one@a;sentinel://:two@b",
    ],
)
@pytest.mark.parametrize("name", ["CELERY_BROKER_URL", "AUDIENCE_REDIS_URL"])
def test_a_url_that_cannot_be_meant_is_refused(name, text):
    with pytest.raises(SettingError, match=name):
        read_settings({name: text})


def test_a_client_connects_to_the_database_with_the_password():
    client = parse_sentinel_url("sentinel://user:p%40ss@a/3").connect(decode_responses=True)
    options = client.connection_pool.connection_kwargs
    assert (options["db"], options["username"], options["password"]) == (3, "user", "p@ss")
    assert options["decode_responses"]
