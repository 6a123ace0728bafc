"""A scenario: a name, and a function from a bench to figures."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from benchmarks.bench import Bench
from benchmarks.figures import Figure


@dataclass(frozen=True)
class Scenario:
    """A measurement that the command runs by its name."""

    name: str
    about: str
    run: Callable[[Bench], Iterator[Figure]]
