"""Imports that import-linter cannot see, and which module reads the environment.

The layers of `tasks`, `worker` and `schemas` are contracts in pyproject.toml.
"""

import ast
import re
import tomllib
from pathlib import Path

import pytest

from devstack.processes import ROOT

MAY_IMPORT = {
    "celeryconfig": {"schemas", "worker"},
    "benchmarks": {"schemas", "worker", "tasks", "benchmarks", "devstack"},
}
OURS = {"benchmarks", "celeryconfig", "devstack", "schemas", "tasks", "tests", "worker"}
PASSES_THE_ENVIRONMENT_ON = ROOT / "devstack"
READS_THE_ENVIRONMENT = ROOT / "worker" / "config.py"

INDEX_OR_MACHINE = "|".join(
    [
        r"--(extra-)?index" + "-url",
        r"https?://[^ \"]+/" + r"simple\b",
        r"(py" + r"pi|python" + r"hosted)\.",
        r"/(work|root|farm|home|Users|opt/wheels)/",
    ]
)


def modules(*packages):
    for package in packages:
        single = ROOT / f"{package}.py"
        yield from [single] if single.exists() else sorted((ROOT / package).rglob("*.py"))


def imported(path):
    """The top-level names of what a module imports, wherever it does."""
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} imports relatively"
            yield node.module.partition(".")[0]


def name(path):
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize("path", list(modules(*MAY_IMPORT)), ids=name)
def test_imports_go_one_way(path):
    package = path.relative_to(ROOT).parts[0].removesuffix(".py")

    assert OURS & set(imported(path)) <= MAY_IMPORT[package]


def test_each_module_of_worker_has_its_layer():
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
    contracts = settings["tool"]["importlinter"]["contracts"]
    (layers,) = (contract["layers"] for contract in contracts if contract["name"] == "layers of worker")
    named = {module for layer in layers for module in re.split(r" [|:] ", layer)}
    found = {f"worker.{path.stem}" for path in (ROOT / "worker").iterdir() if path.suffix in {"", ".py"}}

    assert named == found - {"worker.__init__", "worker.__pycache__"}


def reads_environment(path):
    tree = ast.parse(path.read_text("utf-8"))
    used = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    used |= {node.name for node in ast.walk(tree) if isinstance(node, ast.alias)}
    return bool(used & {"environ", "environb", "getenv"})


def test_one_module_reads_the_environment():
    readers = {
        path
        for path in modules("schemas", "worker", "tasks", "celeryconfig")
        if reads_environment(path) and not path.is_relative_to(PASSES_THE_ENVIRONMENT_ON)
    }

    assert readers == {READS_THE_ENVIRONMENT}


def test_another_app_imports_nothing_of_ours():
    assert set(imported(Path(PASSES_THE_ENVIRONMENT_ON, "other_app.py"))) == {"celery", "json", "sys"}


def ignored_names():
    """The patterns of .gitignore, each for one name in a path."""
    lines = (ROOT / ".gitignore").read_text("utf-8").splitlines()
    return [line.rstrip("/") for line in lines if line and not line.startswith("#")]


def project_files(directory, ignored):
    """The files below a directory, without those whose names are ignored."""
    for path in sorted(directory.iterdir()):
        if any(path.match(pattern) for pattern in ignored):
            continue
        if path.is_dir():
            yield from project_files(path, ignored)
        else:
            yield path


def test_no_file_names_a_package_index_or_a_path_of_some_machine():
    texts = {
        name(path): path.read_text("utf-8", errors="replace")
        for path in project_files(ROOT, (".git", *ignored_names()))
        if path != Path(__file__)
    }

    assert "README.md" in texts
    assert not [path for path, text in texts.items() if re.search(INDEX_OR_MACHINE, text)]


# In halves, or this file would hold them.
LINES = [("--index", "-url x"), ("https://example.org", "/simple"), ("see py", "pi.org"), ("/ro", "ot/x")]


@pytest.mark.parametrize("halves", LINES)
def test_the_search_finds_a_package_index_and_a_machine_s_path(halves):
    assert re.search(INDEX_OR_MACHINE, "".join(halves))
