"""Shell completion: names and IDs, as they are registered now.

If they cannot be read, nothing is completed: a shell has no place for an error.
"""

from collections.abc import Callable, Iterable
from functools import wraps

import click
from click.shell_completion import CompletionItem

from worker.cli.application import application
from worker.cli.tables import text
from worker.services import Services
from worker.state.registry import stream_of_connection

Found = Iterable[tuple[str, str]]
"""Names or IDs, each with a help text."""
Complete = Callable[[click.Context, click.Parameter, str], list[CompletionItem]]

MAX_COMPLETIONS = 200
"""More are no help to anybody."""


def _completing(find: Callable[[Services], Found]) -> Complete:
    @wraps(find)
    def complete(_: click.Context, __: click.Parameter, incomplete: str) -> list[CompletionItem]:
        try:
            found = [item for item in find(application().services) if item[0].startswith(incomplete)]
        except (Exception, SystemExit):
            # The second comes of a setting that is wrong.
            return []
        return [CompletionItem(name, help=text(about)) for name, about in found[:MAX_COMPLETIONS]]

    return complete


@_completing
def complete_connection(services: Services) -> Found:
    """IDs of connections, with their streams."""
    connections = services.registry.snapshot().connections
    return [(name, stream_of_connection(found).queue) for name, found in sorted(connections.items())]


@_completing
def complete_configuration(services: Services) -> Found:
    """Names of configurations."""
    return [(name, "") for name in sorted(services.registry.snapshot().configurations)]


@_completing
def complete_alert(services: Services) -> Found:
    """IDs of alerts that nobody has acknowledged, newest first, with their types."""
    states = services.alerts.states()
    return [(alert.id, alert.type) for alert in services.alerts.all() if alert.id not in states]


@_completing
def complete_dead_letter(services: Services) -> Found:
    """IDs of dead letters, with their types."""
    return [(letter.id, letter.type) for letter in services.dead_letters.all()]
