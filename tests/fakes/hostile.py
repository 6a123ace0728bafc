"""Hostile input: any JSON at all, valid things with something wrong in them, and how much of it.

In full (`CHAOS=full`, as `make chaos` sets it) the tests of `tests/fuzz` try 20,000 inputs, each time
others. Otherwise they try a few, the same ones each time.
"""

from collections.abc import Callable
from copy import deepcopy
from datetime import timedelta
from typing import Any, TypeVar

from full_size import FULL
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

F = TypeVar("F", bound=Callable[..., Any])

SHARE = 25
"""The divisor of the number of inputs where not all are tried."""
FEWEST = 12

PERSONAL = "secretive"
"""In every text that stands for an identity value; it must not come to anybody's eyes."""


def inputs(in_full: int, each: int = 1, **options: Any) -> Callable[[F], F]:
    """Try so many examples in full, and a share of them otherwise. An example is `each` inputs."""

    def decorate(test: F) -> F:
        limited = settings(
            max_examples=in_full if FULL else max(in_full // SHARE, FEWEST // each, 1),
            derandomize=not FULL,
            deadline=timedelta(seconds=20) if FULL else None,
            print_blob=FULL,
            # Fixtures are shared by the inputs of a test; each input begins with empty ones.
            suppress_health_check=[
                HealthCheck.function_scoped_fixture,
                HealthCheck.too_slow,
                HealthCheck.data_too_large,
                HealthCheck.large_base_example,
            ],
            **options,
        )(test)
        limited.inputs_in_full = in_full * each  # type: ignore[attr-defined]
        return limited

    return decorate


TEXT = st.text(max_size=20) | st.sampled_from(
    [
        "",
        "\0",
        "\ud800",
        "\U0001f600",
        "ﷺ",
        "\u202e",
        "{}",
        "%s",
        "{value}",
        PERSONAL,
        "-1",
        "NaN",
        "../..",
        "x" * 5000,
    ]
)
"""Half a surrogate pair included, which JSON can say and UTF-8 cannot."""
NUMBER = st.integers() | st.sampled_from([2**53, 2**63 - 1, 2**63, -(2**63) - 1, 10**30]) | st.floats()
SCALAR = st.none() | st.booleans() | NUMBER | TEXT
JSON = st.recursive(
    SCALAR,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4),
    max_leaves=12,
)
"""Any JSON value, and `NaN`, which Python's JSON knows as well."""


def deep(levels: int) -> Any:
    """A list in a list in a list."""
    nested: Any = PERSONAL
    for _ in range(levels):
        nested = [nested]
    return nested


def mutations(valid: Any, most: int = 3) -> st.SearchStrategy[Any]:
    """Copies of something valid in which up to `most` places are wrong, gone, or somebody else's."""

    @st.composite
    def mutated(draw: Callable[..., Any]) -> Any:
        copy = deepcopy(valid)
        for _ in range(draw(st.integers(0, most))):
            copy = _mutate(draw, copy)
        return copy

    return mutated()


def _mutate(draw: Callable[..., Any], content: Any) -> Any:
    """Change one place of `content`, chosen by walking down from its top."""
    if not isinstance(content, dict | list) or not content or draw(st.integers(0, 5)) == 0:
        return draw(JSON)
    keys = list(content) if isinstance(content, dict) else list(range(len(content)))
    key = draw(st.sampled_from(keys))
    match draw(st.sampled_from(["down", "down", "drop", "replace", "add"])):
        case "down":
            content[key] = _mutate(draw, content[key])
        case "drop":
            del content[key]
        case "replace":
            content[key] = draw(JSON)
        case "add" if isinstance(content, dict):
            content[draw(TEXT)] = draw(JSON)
        case _:
            content.append(draw(JSON))
    return content
