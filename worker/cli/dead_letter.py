"""The command `show-dead-letter`: one dead letter, and on request what it holds."""

import json
from dataclasses import asdict

import click

from worker.cli.application import application
from worker.cli.auditing import actor
from worker.cli.completion import complete_dead_letter
from worker.cli.output import is_terminal, json_option, note
from worker.cli.tables import text
from worker.state.audit import Action


@click.command("show-dead-letter")
@click.argument("dead_letter_id", shell_complete=complete_dead_letter)
@click.option(
    "--records",
    is_flag=True,
    help="Show what was refused, too, identity values included: on a terminal only, and it is audited.",
)
@json_option
def show_dead_letter(dead_letter_id: str, records: bool, as_json: bool) -> None:
    """Show a dead letter: what happened to it and, on request, what it holds.

    \b
    Examples:
      audience-firehose show-dead-letter 0b8e6f0c-…
      audience-firehose show-dead-letter 0b8e6f0c-… --records
    """
    services = application().services
    letter = services.dead_letters.get(dead_letter_id)
    if records and not is_terminal():
        raise click.ClickException("--records shows identity values, and does so on a terminal only")
    row = asdict(letter)
    if as_json:
        click.echo(json.dumps(row))
    else:
        for name, value in row.items():
            click.echo(f"{name:<21}{text(value)}")
    if records:
        message = services.dead_letters.message(letter)
        # Recorded before it is shown: whoever sees the values is in the list.
        services.audit.record(actor(), Action.SHOW, letter.id, "records of a dead letter")
        click.echo(json.dumps({"args": message.args, "kwargs": message.kwargs}, indent=2))
    else:
        note("--records shows what it holds, identity values included")
