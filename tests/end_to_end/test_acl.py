"""The users of Redis that docs/high-availability.md grants the least, on a real server."""

import re

import pytest
from redis import Redis
from redis.exceptions import NoPermissionError
from stack import Stack
from waiting import eventually

from devstack import processes
from devstack.firehose import FakeFirehose
from devstack.processes import ROOT

DOCUMENT = (ROOT / "docs/high-availability.md").read_text("utf-8")
RULES = re.compile(r"^ACL SETUSER (?P<user>\w+) on >\w+ (?P<rules>.+)$", re.MULTILINE)


@pytest.fixture
def server(tmp_path):
    """A server on which the documented users are the only ones beside the administrator."""
    with processes.redis(tmp_path) as (_, url), Redis.from_url(url, decode_responses=True) as redis:
        for user, rules in RULES.findall(DOCUMENT.replace("\\\n", "")):
            redis.execute_command("ACL", "SETUSER", user, "on", ">secret", *rules.split())
        redis.url = url
        yield redis


def as_user(server, user):
    return server.url.replace("redis://", f"redis://{user}:secret@")


def test_a_worker_and_a_caller_need_no_more_than_is_documented(server, tmp_path):
    with FakeFirehose() as firehose:
        stack = Stack(tmp_path, server.url, firehose, databases=(0, 1))
        stack.configure("main")
        audience = stack.audience()
        workers = as_user(server, "worker")
        env = {"CELERY_BROKER_URL": f"{workers}/0", "AUDIENCE_REDIS_URL": f"{workers}/1"}
        stack.caller.conf.broker_url = f"{as_user(server, 'caller')}/0"
        with stack.worker("--concurrency", "2", env=env) as worker:
            stack.send(*audience.added("first", "second"))
            eventually(lambda: audience.customers() == ["first", "second"])
            assert worker.stop() == 0
        assert "permissions" not in worker.output()
    assert server.execute_command("ACL", "LOG") == []


def test_a_caller_may_not_read_what_waits(server):
    with Redis.from_url(as_user(server, "caller")) as caller, pytest.raises(NoPermissionError):
        caller.lrange("audience.changes", 0, -1)
