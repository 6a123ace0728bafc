"""An app in an environment of its own: Celery for Redis, and nothing of this project."""

import subprocess
import sys
from pathlib import Path

import pytest
from waiting import eventually

from devstack.processes import ROOT

ENQUEUE = """
import importlib.util, json, sys
from celery import Celery

assert not any(importlib.util.find_spec(name) for name in ("worker", "schemas", "tasks", "boto3"))
app = Celery("another-app", broker=sys.argv[1])
app.send_task("audience.forward", kwargs={"changes": json.loads(sys.argv[2])}, queue="audience.changes")
"""


@pytest.fixture(scope="session")
def bare_python(tmp_path_factory):
    """A Python with `requirements/caller.txt` installed."""
    directory = tmp_path_factory.mktemp("another-app")
    run(sys.executable, "-m", "venv", "--without-pip", directory)
    python = directory / "bin" / "python"
    options = ("--quiet", "--disable-pip-version-check", "--no-input", "--no-compile")
    pip = (python_with_pip(), "-m", "pip", "--python", python)
    run(*pip, "install", *options, "--require-hashes", "-r", ROOT / "requirements/caller.txt")
    return python


def python_with_pip():
    """The machine's Python: our own environment needs no pip, and some machines have no ensurepip."""
    candidates = (Path(sys.base_prefix, "bin", "python3"), Path(sys.executable))
    return next(python for python in candidates if has_pip(python))


def has_pip(python):
    return (
        subprocess.run([python, "-m", "pip", "--version"], capture_output=True, check=False).returncode == 0
    )


def run(*command, **options):
    subprocess.run([str(part) for part in command], check=True, timeout=120, **options)


def test_an_app_that_imports_nothing_of_ours_enqueues_by_name(stack, audience, bare_python, tmp_path):
    import json

    broker = stack.environment["CELERY_BROKER_URL"]
    changes = json.dumps(audience.added("secretive-1"))
    run(bare_python, "-c", ENQUEUE, broker, changes, cwd=tmp_path)
    eventually(audience.received)
    assert audience.customers() == ["secretive-1"]
