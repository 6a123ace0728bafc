"""The undocumented names that we use of Celery, kombu and others exist as we know them, and are all listed.

A failure after an upgrade says what moved; `docs/upstream.md` says why we use it and where.
"""

import ast
import importlib
import inspect
import json
import pkgutil
import re
import sys
import tomllib
from functools import cache
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

import tasks
import worker
from devstack.processes import ROOT
from monitoring import MONITORING

# Behind all else: packages that both have are those of the environment.
sys.path.append(str(MONITORING))

SHAPES = json.loads(Path(__file__).with_name("upstream_names.json").read_text("utf-8"))
ROW = re.compile(r"^\| `(?P<name>[\w.]+)` \| (?P<why>[^|]+) \| (?P<used_in>[^|]+) \|$", re.MULTILINE)
LISTED = {row["name"]: row for row in ROW.finditer((ROOT / "docs/upstream.md").read_text("utf-8"))}
BOUND_TO_A_MINOR = {"amqp", "billiard", "boto3", "botocore", "celery", "flower", "kombu", "redis", "urllib3"}
UPSTREAM = BOUND_TO_A_MINOR | {"vine"}

DOCUMENTED = re.compile(
    r"""celery\.bootsteps\..*                         # boot steps: "Extensions and Bootsteps"
    | celery\.app\.task\.Task\.(abstract|max_retries|throws)
    | .*\.(__abstractmethods__|__annotations__|__parameters__|__subclasshook__|_abc_impl|_is_protocol)
    | .*\.(__annotate_func__|__annotations_cache__|__firstlineno__|__static_attributes__)
    """,
    re.VERBOSE,
)
"""Members that a class of ours overrides as upstream's documentation says, or that Python itself adds."""


def shape_of(name):
    """The parameters of a function, or the kind of an attribute. Raises `LookupError` where it is gone."""
    owner, last = _owner(name)
    if not hasattr(owner, last) and inspect.isclass(owner):
        if last in _instance_attributes(owner):
            return "set on instances"
        raise LookupError(f"{name} is gone")
    if not hasattr(owner, last):
        raise LookupError(f"{name} is gone")
    member = inspect.getattr_static(owner, last)
    if inspect.isclass(member):
        return "class"
    if callable(member) or isinstance(member, staticmethod | classmethod):
        return _parameters(member)
    if isinstance(member, property) or hasattr(type(member), "__get__"):
        return "property"
    return "attribute"


def _owner(name):
    """The module or class that a dotted name's last part belongs to, and that part."""
    *path, last = name.split(".")
    for length in range(len(path), 0, -1):
        try:
            owner = importlib.import_module(".".join(path[:length]))
        except ModuleNotFoundError:
            continue
        for part in path[length:]:
            if not hasattr(owner, part):
                raise LookupError(f"{name}: {part} is gone")
            owner = getattr(owner, part)
        return owner, last
    raise LookupError(f"{name}: there is no such module")


def _parameters(function):
    """Names and kinds of the parameters; `=` marks one with a default. Annotations differ by Python."""
    parameters = inspect.signature(function).parameters.values()
    plain = [
        p.replace(annotation=p.empty, default=p.empty if p.default is p.empty else ...) for p in parameters
    ]
    return str(inspect.Signature(plain)).replace("=Ellipsis", "=")


@cache
def _instance_attributes(owner):
    """Attributes that the methods of a class, or of its bases, set on `self`."""
    kinds = [base for base in owner.__mro__ if base.__module__.partition(".")[0] in UPSTREAM]
    return {node.attr for kind in kinds for node in _of_self(kind) if isinstance(node.ctx, ast.Store)}


def _of_self(kind):
    """Each place where the source of a class names an attribute of `self`."""
    for node in ast.walk(_classes(kind.__module__)[kind.__name__]):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "self":
            yield node


@cache
def _classes(module):
    """The syntax of a module's classes by name: for the source of a class, `inspect` parses the module."""
    tree = ast.parse(inspect.getsource(importlib.import_module(module)))
    # A class within a function may have the name of one of the module, which `walk` finds before it.
    found = [node for node in ast.walk(tree) if isinstance(node, ast.ClassDef)]
    return {node.name: node for node in reversed(found)}


def our_classes():
    """Every class of the worker and the tasks."""
    for package in (worker, tasks):
        for found in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            if found.name.endswith("__main__"):
                continue
            module = importlib.import_module(found.name)
            yield from (
                member
                for member in vars(module).values()
                if inspect.isclass(member) and inspect.getmodule(member) is module
            )


def overridden():
    """Upstream's members that classes of ours override, as `module.Class.member`."""
    for ours in our_classes():
        bases = [base for base in ours.__mro__ if base.__module__.partition(".")[0] in UPSTREAM]
        for member in vars(ours):
            base = next((base for base in bases if member in vars(base)), None)
            if base is not None and member not in vars(type("Empty", (), {})):
                qualified = base.__qualname__.removeprefix(f"{base.__module__}.")
                yield f"{base.__module__}.{qualified}.{member}"


def private_reads():
    """Underscored attributes that our code reads of something other than `self`, `cls` and `super()`."""
    for path in sorted([*ROOT.glob("worker/**/*.py"), *ROOT.glob("tasks/**/*.py")]):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Attribute) and re.match(r"_[a-z]", node.attr):
                of_self = isinstance(node.value, ast.Name) and node.value.id in ("self", "cls")
                of_super = isinstance(node.value, ast.Call)
                if not (of_self or of_super):
                    yield node.attr, path.relative_to(ROOT).as_posix()


def inherited_private_reads():
    """Underscored attributes that a class of ours reads of `self`, and that no class of ours sets."""
    for kind in our_classes():
        ours = [base for base in kind.__mro__ if base.__module__.partition(".")[0] in ("worker", "tasks")]
        if any(base.__module__.partition(".")[0] in UPSTREAM for base in kind.__mro__):
            known = {name for base in ours for name in vars(base)}
            known |= {n.attr for base in ours for n in _of_self(base) if isinstance(n.ctx, ast.Store)}
            read = {node.attr for node in _of_self(kind)} - known
            yield from ((name, kind.__name__) for name in read if re.match(r"_[a-z]", name))


STANDARD_LIBRARY = {"_asdict", "_replace", "_exit", "_fields", "_value_"}
"""Documented: of named tuples, of enums and of `os`."""


@pytest.mark.parametrize("name", SHAPES)
def test_what_we_use_of_upstreams_insides_is_there_with_the_signature_we_know(name):
    assert shape_of(name) == SHAPES[name], f"see {LISTED[name]['used_in']}: {LISTED[name]['why']}"


def test_the_documentation_and_the_table_of_signatures_list_the_same_names():
    assert LISTED.keys() == SHAPES.keys()


@pytest.mark.parametrize("name", LISTED)
def test_the_documentation_names_the_place_that_uses_a_name(name):
    last, used_in = name.split(".")[-1], re.findall(r"`([^`]+)`", LISTED[name]["used_in"])
    word = name.split(".")[-2] if last == "__init__" else last
    for place in used_in:
        assert (ROOT / place).is_file(), f"docs/upstream.md: there is no file {place}"
        text = (ROOT / place).read_text("utf-8")
        assert re.search(rf"\b{word}\b", text), f"docs/upstream.md: not in {place}"


def test_every_member_of_upstreams_that_a_class_of_ours_overrides_is_listed():
    found = {name for name in overridden() if not DOCUMENTED.fullmatch(name)}
    assert found - LISTED.keys() == set(), "list them in docs/upstream.md and upstream_names.json"


def test_every_private_name_that_our_code_reads_of_others_is_listed():
    listed = {name.split(".")[-1] for name in LISTED} | STANDARD_LIBRARY
    found = {*private_reads(), *inherited_private_reads()}
    assert {read for read in found if read[0] not in listed} == set()


def test_the_ranges_of_what_we_use_the_insides_of_end_before_the_next_minor_version():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    ranges = {wanted.name: wanted.specifier for wanted in map(Requirement, project["dependencies"])}
    assert ranges.keys() >= BOUND_TO_A_MINOR
    for name in BOUND_TO_A_MINOR:
        (at_least,) = (Version(part.version) for part in ranges[name] if part.operator == ">=")
        assert not ranges[name].contains(f"{at_least.major}.{at_least.minor + 1}"), name
