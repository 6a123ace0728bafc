"""`make demo` and `make up`, as they are run. The demo itself checks all that it shows."""

import os
import re
import subprocess
import sys

import pytest
from waiting import eventually

from devstack.aws import LocalAws
from devstack.caller import readme_caller
from devstack.examples import TRAVEL
from devstack.processes import Process, listens, private_environment

SOMEBODYS_OWN = {
    "AUDIENCE_REDIS_URL": "redis://production.invalid",
    "AUDIENCE_IDENTITY_NAMES": "Email=Mail",
    "AWS_PROFILE": "production",
    "CELERY_BROKER_URL": "redis://production.invalid",
    "FLOWER_URL_PREFIX": "production",
    "HTTP_PROXY": "http://proxy.invalid",
    "http_proxy": "http://proxy.invalid",
}
"""Settings of the shell, which the demo must not use."""
EMAIL = '"Email":"p.fogg@example.com"'
"""In the record of the README's caller."""
DEMO_TIMEOUT = 300
"""Seconds. It takes about 20 on an idle machine."""
TERMINATED = 128 + 15


@pytest.fixture
def begin(tmp_path):
    """Begins a story, and ends it where the test does not."""
    begun = []

    def begin(story):
        command = [sys.executable, "-m", "devstack", story]
        begun.append(Process(story, command, tmp_path / f"{story}.log", {}))
        return begun[-1]

    yield begin
    for process in begun:
        process.stop()


def opened(output):
    """The ports of the servers that a story has started."""
    ports = {int(port) for port in re.findall(r"127\.0\.0\.1:(\d+)", output)}
    assert len(ports) == len(("Redis", "Firehose", "dashboard"))
    return ports


def devstack(env, *arguments):
    """The output of a command beside a running stack."""
    command = [sys.executable, "-m", "devstack", *arguments]
    done = subprocess.run(command, env=private_environment(env), capture_output=True, text=True, check=True)
    return done.stdout


def test_the_demo_keeps_its_promises_and_leaves_nothing_behind():
    command = [sys.executable, "-m", "devstack", "demo"]

    demo = subprocess.run(
        command,
        env=os.environ | SOMEBODYS_OWN,
        capture_output=True,
        text=True,
        timeout=DEMO_TIMEOUT,
        check=False,
    )

    assert demo.returncode == 0, demo.stdout + demo.stderr
    for line in (
        '{"MembershipChangedTimestamp":"1234565788","AudienceId":123123,"AudienceName":"LowEngagement"',
        '"IsMember":false,"UserIdentities":{},"IsDeleted":true}',
        "$ audience-firehose alerts",
        "500 - Internal Server Error",
        "Retry Limit Exceeded",
        "$ audience-firehose replay ",
        '"AudienceName":"LapsedTravellers","IsMember":true,"UserIdentities":{"CustomerId":"detective.fix"}}',
        "$ audience-firehose status",
        "All as promised",
    ):
        assert line in demo.stdout
    assert not any(map(listens, opened(demo.stdout)))


@pytest.mark.full
def test_the_stack_forwards_the_changes_of_the_readmes_caller_until_it_is_stopped(begin, tmp_path):
    up = begin("up")
    up.wait_until(lambda: "To see the record" in up.output(), DEMO_TIMEOUT)
    ports = opened(up.output())
    assert all(map(listens, ports))

    env = dict(re.findall(r"export (CELERY_BROKER_URL|AWS_ENDPOINT_URL_FIREHOSE)=(\S+)", up.output()))
    caller = tmp_path / "caller.py"
    caller.write_text(readme_caller(env["CELERY_BROKER_URL"]))
    subprocess.run([sys.executable, "-P", caller], check=True, cwd=tmp_path, env=private_environment({}))
    aws = LocalAws(env["AWS_ENDPOINT_URL_FIREHOSE"])
    eventually(lambda: EMAIL in repr(aws.delivered(TRAVEL.name)), every=0.5)
    assert EMAIL in devstack(env, "records", TRAVEL.name)

    assert up.stop() == 0
    assert not any(map(listens, ports))


@pytest.mark.full
def test_a_demo_stopped_halfway_stops_what_it_started(begin):
    demo = begin("demo")
    demo.wait_until(lambda: "$ audience-firehose connect" in demo.output(), DEMO_TIMEOUT)

    assert demo.stop() == TERMINATED
    assert not any(map(listens, opened(demo.output())))
