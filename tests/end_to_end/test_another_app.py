"""An app in an environment of its own: Celery for Redis, and nothing of this project."""

import json
import re
import subprocess
import sys
from importlib import metadata

import pytest
from packaging.requirements import Requirement
from waiting import eventually

from devstack.processes import ROOT, private_environment

ENQUEUE = """
import importlib.util, json, sys
from celery import Celery

assert not any(importlib.util.find_spec(name) for name in ("worker", "schemas", "tasks", "boto3"))
app = Celery("another-app", broker=sys.argv[1])
app.send_task("audience.forward", kwargs={"changes": json.loads(sys.argv[2])}, queue="audience.changes")
"""


@pytest.fixture(scope="session")
def packages(tmp_path_factory):
    """A directory with what `requirements/caller.txt` pins, and no other package."""
    directory = tmp_path_factory.mktemp("another-app")
    for pin in re.findall(r"^(\S+==[^\\\n]+)", (ROOT / "requirements/caller.txt").read_text("utf-8"), re.M):
        wanted = Requirement(pin)
        if wanted.marker is None or wanted.marker.evaluate():
            link(metadata.distribution(wanted.name), wanted, directory)
    return directory


def link(installed, wanted, directory):
    """Link to the files of a package of our own environment, which has the same version."""
    assert installed.version in wanted.specifier
    for name in {file.parts[0] for file in installed.files} - {"..", "__pycache__"}:
        (directory / name).symlink_to(installed.locate_file(name))


def test_an_app_that_imports_nothing_of_ours_enqueues_by_name(stack, audience, packages, tmp_path):
    broker = stack.environment["CELERY_BROKER_URL"]
    changes = json.dumps(audience.added("secretive-1"))
    # Without `site`, and so without the packages of our own environment.
    command = [sys.executable, "-S", "-c", ENQUEUE, broker, changes]
    environment = private_environment({"PYTHONPATH": str(packages)})
    subprocess.run(command, check=True, timeout=120, cwd=tmp_path, env=environment)
    eventually(audience.received)
    assert audience.customers() == ["secretive-1"]
