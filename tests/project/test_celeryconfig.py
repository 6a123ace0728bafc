"""Celery connects with the broker's URL as the settings have it, not as the environment spells it."""

import subprocess
import sys

import pytest

from devstack.processes import ROOT, private_environment

PRINT = (
    "from worker.celery import app;"
    "print(app.conf.broker_read_url, app.conf.broker_write_url,"
    " app.conf.broker_transport_options.get('master_name'))"
)


@pytest.mark.parametrize(
    ("url", "used", "master"),
    [
        ("redis://host/1", "redis://host/1", "None"),
        ("rediss://host/1", "rediss://host/1?ssl_cert_reqs=required", "None"),
        ("sentinel://a;sentinel://b/1?master_name=m", "sentinel://a:26379/1;sentinel://b:26379/1", "m"),
    ],
)
def test_the_url_of_the_environment_is_used_as_it_was_checked(url, used, master):
    found = subprocess.run(
        [sys.executable, "-c", PRINT],
        env=private_environment({"CELERY_BROKER_URL": url}),
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert found.stdout.split() == [used, used, master]
