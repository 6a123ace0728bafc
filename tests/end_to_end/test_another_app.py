"""The README's caller in an environment of its own: Celery for Redis, and nothing of this project."""

import re
import subprocess
import sys
from importlib import metadata

import pytest
from packaging.requirements import Requirement
from waiting import eventually

from devstack.caller import readme_caller
from devstack.processes import ROOT, private_environment

WITHOUT_OURS = """
import importlib.util

assert not any(importlib.util.find_spec(name) for name in ("worker", "schemas", "tasks", "boto3"))
"""
README_AUDIENCE = 123123


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


def test_an_app_that_imports_nothing_of_ours_enqueues_by_name(stack, packages, tmp_path):
    audience = stack.audience(number=README_AUDIENCE)
    caller = readme_caller(stack.environment["CELERY_BROKER_URL"])
    # With an identity value that the search for leaks knows.
    program = WITHOUT_OURS + caller.replace("p.fogg138", "secretive-1")
    # Without `site`, and so without the packages of our own environment.
    command = [sys.executable, "-S", "-c", program]
    environment = private_environment({"PYTHONPATH": str(packages)})
    subprocess.run(command, check=True, timeout=120, cwd=tmp_path, env=environment)
    eventually(audience.received)
    assert audience.customers() == ["secretive-1"]
