"""The pins that `make install`, the image and another app install: with hashes, as pyproject.toml asks."""

import re
import tomllib

import pytest
from packaging.requirements import Requirement

from devstack.processes import ROOT

PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
WANTED = {
    "run.txt": PYPROJECT["project"]["dependencies"],
    "build.txt": PYPROJECT["dependency-groups"]["build"],
    "dev.txt": [
        *PYPROJECT["project"]["dependencies"],
        *PYPROJECT["dependency-groups"]["build"],
        *(wanted for wanted in PYPROJECT["dependency-groups"]["dev"] if isinstance(wanted, str)),
    ],
    "monitoring.txt": PYPROJECT["dependency-groups"]["monitoring"],
    "caller.txt": ["celery[redis]"],
    "redis.txt": PYPROJECT["dependency-groups"]["redis"],
    "valkey.txt": PYPROJECT["dependency-groups"]["valkey"],
}


def blocks(name):
    """The pins of a file, each with the lines that belong to it."""
    text = (ROOT / "requirements" / name).read_text("utf-8")
    return re.findall(r"^\S.*?(?=^\S|\Z)", text, re.MULTILINE | re.DOTALL)


def pins(name):
    """The versions in a file, by the names of their projects."""
    return dict(re.match(r"([a-z0-9-]+)==(\S+)", block).groups() for block in blocks(name))


def test_requirements_holds_no_other_files():
    assert {path.name for path in (ROOT / "requirements").iterdir()} == WANTED.keys()


@pytest.mark.parametrize("name", WANTED)
def test_every_line_is_a_pin_with_hashes(name):
    assert all(re.match(r"[a-z0-9-]+==\S+ .*--hash=sha256:", block, re.DOTALL) for block in blocks(name))


@pytest.mark.parametrize("name", WANTED)
def test_the_pins_are_what_pyproject_asks_for(name):
    versions = pins(name)

    for wanted in map(Requirement, WANTED[name]):
        assert wanted.specifier.contains(versions[wanted.name]), f"make lock: {wanted}"


@pytest.mark.parametrize("name", ["run.txt", "build.txt", "caller.txt"])
def test_tests_run_with_what_is_deployed(name):
    assert pins(name).items() <= pins("dev.txt").items()


def test_what_watches_workers_is_in_no_environment_but_its_own_and_needs_the_same_versions():
    monitoring, environment = pins("monitoring.txt"), pins("dev.txt")
    assert not environment.keys() & {Requirement(wanted).name for wanted in WANTED["monitoring.txt"]}
    assert all(monitoring[name] == environment[name] for name in monitoring.keys() & environment.keys())
