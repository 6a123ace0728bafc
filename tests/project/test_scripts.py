"""Each Lua script stands in a file of its own, with a header that names what it is given and returns."""

import re

import pytest

from devstack.processes import ROOT

SCRIPTS = sorted(ROOT.glob("worker/**/*.lua"))


def header_and_code(path):
    """The comment lines at the top of a script, and the rest."""
    lines = path.read_text("utf-8").splitlines()
    height = next(number for number, line in enumerate(lines) if not line.startswith("--"))
    return "\n".join(lines[:height]), "\n".join(lines[height:])


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.stem)
def test_the_header_of_a_script_names_its_keys_its_arguments_and_its_answer(path):
    header, code = header_and_code(path)

    assert re.search(r"^-- Returns\b", header, re.MULTILINE)
    for given in ("KEYS", "ARGV"):
        named = re.findall(rf"^-- {given}\b(?:\[(\d+)(…?)\])? ", header, re.MULTILINE)
        assert bool(named) == bool(re.search(rf"\b{given}\b", code))
        assert [int(number or 0) for number, _ in named] == list(range(1, len(named) + 1))
        assert not any(rest for _, rest in named[:-1]), "the last one alone may be many"


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.stem)
def test_a_script_names_no_key_but_those_it_declares(path):
    _, code = header_and_code(path)

    assert re.findall(r"redis\.p?call\(\s*'[A-Z]+',\s*['\"]", code) == []


def test_no_script_stands_in_a_python_module():
    modules = [*ROOT.glob("worker/**/*.py"), *ROOT.glob("tasks/*.py")]

    assert [path for path in modules if "redis.call(" in path.read_text("utf-8")] == []
