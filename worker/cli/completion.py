"""Shell completion: names and IDs, as they are registered now.

If they cannot be read, nothing is completed: a shell has no place for an error.
"""

from collections.abc import Callable, Iterable
from functools import wraps
from typing import TypeVar

import click
from click.shell_completion import CompletionItem

from worker.cli.application import application
from worker.cli.tables import text
from worker.failures.alerts import Alerts
from worker.failures.dead_letters import DeadLetters
from worker.state.registry import Registry, stream_of_connection

Found = Iterable[tuple[str, str]]
"""Names or IDs, each with a help text."""
Part = TypeVar("Part")
Complete = Callable[[click.Context, click.Parameter, str], list[CompletionItem]]

MAX_COMPLETIONS = 200
"""More are no help to anybody."""


def _completing(part: Callable[[], Part]) -> Callable[[Callable[[Part], Found]], Complete]:
    """Make a completion of a function that finds names and IDs in `part`."""

    def completing(find: Callable[[Part], Found]) -> Complete:
        @wraps(find)
        def complete(_: click.Context, __: click.Parameter, incomplete: str) -> list[CompletionItem]:
            try:
                found = [item for item in find(part()) if item[0].startswith(incomplete)]
            except (Exception, SystemExit):
                # The second comes of a setting that is wrong.
                return []
            return [CompletionItem(name, help=text(about)) for name, about in found[:MAX_COMPLETIONS]]

        return complete

    return completing


@_completing(lambda: application().services.registry)
def complete_connection(registry: Registry) -> Found:
    """IDs of connections, with their streams."""
    connections = registry.snapshot().connections
    return [(name, stream_of_connection(found).queue) for name, found in sorted(connections.items())]


@_completing(lambda: application().services.registry)
def complete_configuration(registry: Registry) -> Found:
    """Names of configurations."""
    return [(name, "") for name in sorted(registry.snapshot().configurations)]


@_completing(lambda: application().services.alerts)
def complete_alert(alerts: Alerts) -> Found:
    """IDs of alerts that nobody has acknowledged, newest first, with their types."""
    states = alerts.states()
    return [(alert.id, alert.type) for alert in alerts.all() if alert.id not in states]


@_completing(lambda: application().services.dead_letters)
def complete_dead_letter(dead_letters: DeadLetters) -> Found:
    """IDs of dead letters, with their types."""
    return [(letter.id, letter.type) for letter in dead_letters.all()]
