"""forget-configuration, reencrypt."""

import click

from worker.cli.application import application
from worker.cli.auditing import record_action
from worker.cli.completion import complete_configuration
from worker.cli.output import count, json_option, note, result
from worker.errors import NotRegistered, SecretKeyError
from worker.state.audit import Action
from worker.state.counters import Counters


@click.command("forget-configuration")
@click.argument("name", shell_complete=complete_configuration)
@json_option
def forget_configuration(name: str, as_json: bool) -> None:
    """Remove a configuration, with its stored secret. Refused while connections use it."""
    services = application().services
    services.registry.forget(name)
    record_action(services.audit, Action.FORGET_CONFIGURATION, name)
    result(f"forgot {name}", as_json=as_json, id=name, forgotten=True)
    if left := _records_left(services.counters, name):
        note(
            f"{count(left, 'record')} of its streams are in the broker or in dead letters: `configure` and"
            " `connect` it again to have them delivered"
        )


@click.command()
@json_option
def reencrypt(as_json: bool) -> None:
    """Encrypt the stored secrets with the first key of AUDIENCE_SECRET_KEY.

    No secret has to be entered again. After it, the other keys may be removed from AUDIENCE_SECRET_KEY.

    \b
    Examples:
      AUDIENCE_SECRET_KEY=new,old audience-firehose reencrypt
    """
    services = application().services
    failed = 0
    for name in sorted(services.registry.refresh().configurations):
        try:
            is_done = services.registry.reencrypt(name)
        except SecretKeyError as error:
            failed += 1
            note(f"{name}: {error}")
        except NotRegistered:
            # Somebody has just forgotten it.
            continue
        else:
            if is_done:
                record_action(services.audit, Action.REENCRYPT, name)
                result(f"reencrypted {name}", as_json=as_json, id=name, reencrypted=True)
    if failed:
        raise click.ClickException(f"{count(failed, 'configuration')} left as before; keep the old key")


def _records_left(counters: Counters, configuration: str) -> int:
    streams = [stream for stream in counters.streams() if stream.configuration == configuration]
    return sum(counters.of(stream).outstanding for stream in streams)
