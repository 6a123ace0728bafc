"""URLs of Redis Sentinel."""

import os
import signal
import socket
from contextlib import suppress

import pytest
from celery import Celery
from redis.exceptions import TimeoutError
from redis.sentinel import Sentinel

from devstack import processes
from worker.config import read_settings
from worker.errors import SettingError
from worker.store.connections import connect_redis
from worker.store.sentinel import MasterTlsConnection, kombu_url, parse_sentinel_url


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
        "sentinel://a?master_name=m;sentinel://b?master_name=n",
        "sentinel://a?ssl=maybe",
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


def test_tls_holds_for_the_servers_and_the_sentinels_and_verifies_their_certificates():
    parsed = parse_sentinel_url("sentinel://a;sentinel://b/1?ssl_ca_certs=/ca.pem")
    verified = {"ssl": True, "ssl_cert_reqs": "required", "ssl_ca_certs": "/ca.pem"}
    query = "ssl_cert_reqs=required&ssl_ca_certs=/ca.pem"
    assert parsed.url == f"sentinel://a:26379/1?{query};sentinel://b:26379/1?{query}"
    assert parsed.sentinel_options == verified
    assert parsed.connect().connection_pool.connection_class is MasterTlsConnection


@pytest.mark.parametrize(
    ("query", "servers", "sentinels"),
    [
        ("", False, False),
        ("?ssl=true", True, True),
        ("?ssl=true&sentinel_ssl=false", True, False),
        ("?sentinel_ssl=true", False, True),
        ("?ssl=false&ssl_ca_certs=/ca.pem", False, False),
    ],
)
def test_servers_and_sentinels_may_differ_in_tls(query, servers, sentinels):
    parsed = parse_sentinel_url(f"sentinel://a{query}")
    assert (bool(parsed.tls), "ssl" in parsed.sentinel_options) == (servers, sentinels)


def test_the_sentinels_password_is_an_option_and_in_no_url_that_celery_may_show():
    url, options = kombu_url("sentinel://:server@a?sentinel_username=u&sentinel_password=s%26cret")
    assert options["sentinel_kwargs"].items() >= {"username": "u", "password": "s&cret"}.items()
    assert "cret" not in url
    app = Celery(set_as_current=False, broker=url, broker_transport_options=options)
    assert "cret" not in app.conf.humanize()


def test_a_parameter_that_is_not_known_is_named_and_its_value_is_not():
    with pytest.raises(ValueError, match="sentinel_pasword") as caught:
        parse_sentinel_url("sentinel://a?sentinel_pasword=secret")
    assert "secret" not in str(caught.value)


def test_after_a_master_that_hangs_the_sentinels_are_asked_again(tmp_path, real_redis, monkeypatch):
    client = connect_redis("sentinel://a")
    with processes.redis(tmp_path) as (hanging, url):
        masters = [("127.0.0.1", int(url.rpartition(":")[2]))]
        monkeypatch.setattr(client.connection_pool.sentinel_manager, "discover_master", lambda _: masters[-1])
        client.set("audience:test", "hanging")
        os.kill(hanging.pid, signal.SIGSTOP)
        real_redis.set("audience:test", "promoted")
        masters.append(("127.0.0.1", real_redis.connection_pool.connection_kwargs["port"]))
        with pytest.raises(TimeoutError):
            client.get("audience:test")
        assert client.get("audience:test") == b"promoted"
        os.kill(hanging.pid, signal.SIGCONT)


@pytest.fixture
def hanging_sentinel():
    """A host and a port that accept connections and say nothing."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(0)
        yield listener


def attempts(listener):
    """How many connections wait to be accepted."""
    found = 0
    with suppress(BlockingIOError):
        while listener.accept():
            found += 1
    return found


def broker_sentinels(url):
    return Sentinel(parse_sentinel_url(url).sentinels, sentinel_kwargs=kombu_url(url)[1]["sentinel_kwargs"])


def state_sentinels(url):
    return connect_redis(url).connection_pool.sentinel_manager


@pytest.mark.parametrize("sentinels", [broker_sentinels, state_sentinels])
def test_a_sentinel_that_hangs_is_waited_for_once(sentinels, hanging_sentinel):
    (asked,) = sentinels(f"sentinel://127.0.0.1:{hanging_sentinel.getsockname()[1]}").sentinels
    options = asked.connection_pool.connection_kwargs
    assert max(options["socket_timeout"], options["socket_connect_timeout"]) <= 5
    options |= {"socket_timeout": 0.1, "socket_connect_timeout": 0.1}
    with pytest.raises(TimeoutError):
        asked.sentinel_masters()
    assert attempts(hanging_sentinel) == 1
