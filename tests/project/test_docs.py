"""The documents: the paths, tests, settings and commands that they name exist."""

import ast
import re
import shlex

import click
import pytest
from documents import DOCS, code_spans, fenced_lines, name, text

from devstack.processes import ROOT
from worker.cli import ENTRIES, main
from worker.store.atomic import WRITE_FIRST_KEY

TOP_LEVEL = {path.name for path in ROOT.iterdir()} - {".git", ".venv"}
SYNOPSIS = ("[", "|", "COMMAND")
STATUS = re.compile(
    r"^Date: \d{4}-\d\d-\d\d\. Status: (accepted( \([^)]+\))?|superseded by \[decision \d+\]\(\S+\))\.$"
)
"""The line below the title of a decision, as CONTRIBUTING.md prints it."""
STATE_KEY = re.compile(r'^[A-Z_]+ = "(audience:[a-z:-]+)"$', re.MULTILINE)
"""A constant of the code that is a key of the state, or what its keys begin with."""


def paths(markdown):
    """The code spans that are paths in this repository: they begin with a name of its top directory."""
    for span in code_spans(markdown):
        is_path = re.fullmatch(r"[\w./-]+", span) and ("/" in span or "." in span)
        if is_path and span.split("/")[0] in TOP_LEVEL:
            yield span


def links(markdown):
    """The files that links lead to."""
    return re.findall(r"\]\(([^)#:]+)[)#]", markdown)


def commands(markdown):
    """Calls of `audience-firehose`, without what a shell adds to them."""
    for line in [*code_spans(markdown), *fenced_lines(markdown)]:
        found = re.match(r"(?:\S+ \| )?audience-firehose (?!-)([^|<>#&]+)", line)
        if found and not any(sign in line for sign in SYNOPSIS):
            yield found[1].strip()


def named_tests(markdown):
    """`test_file.py::test_name`; a span that begins with `::` is in the file of the span before it."""
    file = None
    for span in code_spans(markdown):
        if found := re.fullmatch(r"(?:(\w[\w/]*\.py))?(?:::)?(test_\w+)", span):
            file = found[1] or file
            yield (file if span.startswith("::") or found[1] else None), found[2]


def functions(path):
    return {node.name for node in ast.walk(ast.parse(text(path))) if isinstance(node, ast.FunctionDef)}


def every(find):
    """Each thing that `find` finds in a document, with the document."""
    found = [(path, thing) for path in DOCS for thing in dict.fromkeys(find(text(path)))]
    return [pytest.param(path, thing, id=f"{name(path)}-{thing}") for path, thing in found]


@pytest.mark.parametrize(("document", "path"), every(paths))
def test_a_path_that_is_named_exists(document, path):
    assert (ROOT / path).exists()


@pytest.mark.parametrize(("document", "link"), every(links))
def test_a_link_leads_to_a_file(document, link):
    assert (document.parent / link).exists()


@pytest.mark.parametrize(("document", "test"), every(named_tests))
def test_a_test_that_is_named_exists(document, test):
    file, function = test
    files = [path for path in ROOT.glob("tests/**/test_*.py") if file is None or name(path).endswith(file)]

    assert any(function in functions(path) for path in files)


@pytest.mark.parametrize(("document", "command"), every(commands))
def test_a_command_that_is_named_is_understood(document, command, tmp_path, monkeypatch):
    called, *arguments = shlex.split(command)
    assert called in ENTRIES
    if not arguments:
        return
    monkeypatch.chdir(tmp_path)
    (tmp_path / "changes.jsonl").touch()
    group = click.Context(main)

    main.get_command(group, called).make_context(called, arguments, parent=group)


@pytest.mark.parametrize("decision", [path for path in DOCS if path.parent.name == "decisions"], ids=name)
def test_a_decision_begins_as_contributing_prints_it(decision):
    title, blank, status, *_ = text(decision).splitlines()

    assert title.startswith(f"# {int(decision.name[:4])}. ")
    assert blank == ""
    assert STATUS.match(status)


def test_every_command_is_in_the_contract():
    contract = text(ROOT / "docs" / "contract.md")

    assert [command for command in ENTRIES if f"`{command}" not in contract] == []


def test_every_setting_is_in_the_readme():
    read = set(re.findall(r'"((?:AUDIENCE|CELERY)_[A-Z_]+)"', text(ROOT / "worker" / "config.py")))

    assert [setting for setting in sorted(read) if f"`{setting}`" not in text(ROOT / "README.md")] == []


def test_every_key_of_the_state_is_in_architecture():
    kept = {key for path in ROOT.glob("worker/**/*.py") for key in STATE_KEY.findall(text(path))}
    listed = re.findall(r"`(audience:[a-z:-]*[a-z])(?:[:<\w>]*)`", text(ROOT / "docs" / "architecture.md"))

    assert kept - {WRITE_FIRST_KEY} == set(listed)


def printed_modules(markdown):
    """The modules of the tree that a document prints: `directory/` on a line, then its modules."""
    block = re.search(r"^```\n(celeryconfig\.py\n.*?)^```", markdown, re.MULTILINE | re.DOTALL)
    parents = []
    for line in block[1].splitlines()[1:]:
        directory, *modules = line.split()
        depth = (len(line) - len(line.lstrip())) // 2
        parents = [*parents[:depth], directory]
        yield "".join(parents)
        yield from ("".join(parents) + module for module in modules)


def test_every_module_of_the_tree_in_architecture_exists():
    printed = list(printed_modules(text(ROOT / "docs" / "architecture.md")))

    assert "worker/broker/redis/transport" in printed
    assert [path for path in printed if not exists(path)] == []


def exists(path):
    """Whether there is a directory, a file or a module of this path."""
    return (ROOT / path).exists() or (ROOT / f"{path}.py").exists()


def test_every_package_is_in_the_tree_in_architecture():
    printed = set(printed_modules(text(ROOT / "docs" / "architecture.md")))
    shipped = [ROOT / part for part in ("schemas", "tasks", "worker", "devstack")]
    packages = {path.parent for package in shipped for path in package.rglob("*.py")}

    assert {f"{name(package)}/" for package in packages} - printed == set()


def test_at_most_ten_modules_lie_flat_in_worker():
    flat = [path.name for path in ROOT.glob("worker/*.py") if path.name != "__init__.py"]

    assert len(flat) <= 10, flat
