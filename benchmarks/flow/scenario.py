"""A scenario: a name, and a function from a bench to figures."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from benchmarks.flow.bench import Bench
from benchmarks.flow.figures import Figure


@dataclass(frozen=True)
class Scenario:
    """What can be asked for by name."""

    name: str
    about: str
    run: Callable[[Bench], Iterator[Figure]]
