"""configure, connect, connections, configurations, disconnect."""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, asdict, fields
from difflib import get_close_matches
from operator import itemgetter
from typing import Any

import click
from kombu.exceptions import OperationalError

from schemas.identities import Catalogue
from schemas.quotas import stated_quota
from schemas.settings import Configuration, Connection
from worker.broker.client import queue_lengths
from worker.cli.application import application
from worker.cli.auditing import record_action
from worker.cli.completion import complete_configuration, complete_connection
from worker.cli.filters import configuration_option, narrowed, region_option, stream_option
from worker.cli.output import Columns, Listing, Row, count, json_option, note, present, result
from worker.cli.stream_arns import name_and_region
from worker.config import current_settings
from worker.errors import InvalidSettings
from worker.flow.circuit_breakers import CircuitBreaker
from worker.queues import Stream
from worker.state.audit import Action
from worker.state.registry import stream_of_connection

SET = "set"
"""Stands for a secret that is stored."""
SECRET_LABELS = {"secret_access_key": "Secret Access Key", "session_token": "Session Token"}
MIN_AWS_KEY_ID_LENGTH = 16
"""Source: AccessKey, IAM API reference."""

CONNECTION_COLUMNS: Columns = {
    "ID": itemgetter("id"),
    "AUDIENCE": lambda row: str(row["audience_id"]),
    "CONFIGURATION": itemgetter("configuration"),
    "STREAM": itemgetter("delivery_stream_name"),
    "REGION": itemgetter("region"),
    "OPTIONS": lambda row: " ".join(options(row)),
}
CONFIGURATION_COLUMNS: Columns = {
    "NAME": itemgetter("name"),
    "ACCESS KEY ID": itemgetter("access_key_id"),
    "SECRET": itemgetter("secret_access_key"),
    "SESSION TOKEN": itemgetter("session_token"),
    "ROLE ARN": itemgetter("role_arn"),
    "EXTERNAL ID": itemgetter("external_id"),
    "SEND REMOVE ON IDENTITY CHANGE": lambda row: "yes" if row["send_remove_on_identity_change"] else "no",
}


@click.command()
@click.argument("name", shell_complete=complete_configuration)
@click.option("--access-key-id", metavar="ID", help="The access key ID.")
@click.option(
    "--secret-access-key-stdin",
    is_flag=True,
    help="Read the secret access key from stdin; on a terminal, prompt for it.",
)
@click.option(
    "--session-token-stdin",
    is_flag=True,
    help="Read the session token of temporary credentials, too: on stdin, the line after the secret.",
)
@click.option("--role-arn", metavar="ARN", help="A role to assume.")
@click.option("--external-id", metavar="ID", help="The external ID that the role's trust policy asks for.")
@click.option(
    "--send-remove-on-identity-change/--no-send-remove-on-identity-change",
    default=None,
    help="Whether a changed identity is first removed under its previous one.  [default: send]",
)
@json_option
def configure(
    *, name: str, secret_access_key_stdin: bool, session_token_stdin: bool, as_json: bool, **given: Any
) -> None:
    """Store an AWS identity under NAME, or change the one that is there.

    A setting that is not given keeps its value; an empty value removes it (--role-arn ''). With
    neither a key nor a role, the credentials of the workers' environment are used.

    \b
    Examples:
      audience-firehose configure main --role-arn arn:aws:iam::123456789012:role/forwarder
      audience-firehose configure main --role-arn arn:aws:iam::123456789012:role/forwarder \\
          --external-id shared-with-the-account
      audience-firehose configure main --access-key-id AKIA… --secret-access-key-stdin < secret
      audience-firehose configure main --access-key-id ASIA… --secret-access-key-stdin \\
          --session-token-stdin < secret-and-token
      audience-firehose configure main --no-send-remove-on-identity-change
    """
    _check_access_key_id(given["access_key_id"])
    secrets = _secrets({"secret_access_key": secret_access_key_stdin, "session_token": session_token_stdin})
    services = application().services
    is_known = name in services.registry.snapshot().configurations
    services.registry.configure(name, **secrets, **given)
    record_action(services.audit, Action.CONFIGURE, name, _names({**given, **secrets}))
    done = "updated" if is_known else "configured"
    result(
        f"{done} {name}",
        as_json=as_json,
        **configuration_row(services.registry.snapshot().configurations[name]),
    )
    blocking = services.circuit_breakers.blocking()
    for stream in sorted(services.registry.snapshot().streams):
        if stream.configuration == name and stream.queue in blocking:
            _note_blocking(stream, blocking[stream.queue])


@click.command()
@click.argument("audience_id", type=int)
@click.option(
    "--configuration",
    required=True,
    metavar="NAME",
    shell_complete=complete_configuration,
    help="The AWS identity to deliver with.",
)
@click.option("--delivery-stream-name", required=True, metavar="S", help="The stream's name or ARN.")
@click.option("--region", metavar="R", help="The stream's region.  [default: us-east-1]")
@click.option(
    "--send-anonymous-users/--no-send-anonymous-users",
    default=None,
    help="Whether a user with no identity but an MPID is sent.  [default: send]",
)
@click.option(
    "--forward-email-addresses/--no-forward-email-addresses",
    default=None,
    help="Whether e-mail addresses are forwarded.  [default: forward]",
)
@click.option(
    "--forward-customer-ids/--no-forward-customer-ids",
    default=None,
    help="Whether customer IDs are forwarded.  [default: forward]",
)
@click.option(
    "--forward-idfas/--no-forward-idfas",
    default=None,
    help="Whether Apple's advertising identifiers (IDFA) are forwarded.  [default: forward]",
)
@click.option(
    "--forward-google-advertising-ids/--no-forward-google-advertising-ids",
    default=None,
    help="Whether Google's advertising IDs are forwarded.  [default: forward]",
)
@click.option(
    "--exclude", multiple=True, metavar="NAME", help="Another identity that is not forwarded; repeatable."
)
@click.option(
    "--append-newline/--no-append-newline",
    default=None,
    help="Whether a record ends with a newline.  [default: append]",
)
@click.option(
    "--include-metadata/--no-include-metadata",
    default=None,
    help="Whether a record ends with ChangeId, SequenceNumber and SchemaVersion.  [default: do not]",
)
@click.option(
    "--aggregate-records/--no-aggregate-records",
    default=None,
    help="Whether lines share Firehose records, which AWS bills in steps of 5 KiB.  [default: do not]",
)
@click.option(
    "--stream-quota",
    metavar="QUOTA",
    help="What the stream may take from all workers together: 1MiB/s, 200requests/s, 50000records/s, or"
    " several joined by +; if several connections lead to the stream, the smallest counts."
    "  [default: its region's]",
)
@json_option
def connect(audience_id: int, exclude: tuple[str, ...], as_json: bool, **given: Any) -> None:
    """Send an audience's membership changes to a delivery stream, or change how.

    Audience, configuration, region and stream name say which connection it is. A
    setting that is not given keeps its value; --exclude '' removes all exclusions,
    and --stream-quota '' restores the region's quota.

    \b
    Examples:
      audience-firehose connect 123123 --configuration main --delivery-stream-name audiences
      audience-firehose connect 123123 --configuration main \\
          --delivery-stream-name arn:aws:firehose:eu-west-1:123456789012:deliverystream/audiences
      audience-firehose connect 123123 --configuration main --delivery-stream-name audiences \\
          --region eu-west-1 --no-forward-email-addresses --exclude FacebookId --exclude Other
    """
    given["delivery_stream_name"], given["region"] = name_and_region(
        given["delivery_stream_name"], given["region"]
    )
    app = application()
    services = app.services
    known = services.registry.snapshot().connections
    excluded = standard_names(exclude, current_settings().catalogue) if exclude else None
    try:
        app.installation.register()
    except OperationalError:
        note("the broker cannot be reached; the next worker that starts ties it to this registry")
    identifier = services.registry.connect(audience_id=audience_id, identities_to_exclude=excluded, **given)
    services.skipped_audiences.forget(audience_id)
    record_action(services.audit, Action.CONNECT, identifier, _names({**given, "exclude": excluded}))
    connection = services.registry.connection(identifier)
    done = "updated" if identifier in known else "connected"
    row = connection_row(identifier, connection, current_settings().catalogue)
    result(f"{done} {identifier}", as_json=as_json, **row)
    stream = stream_of_connection(connection)
    if given["stream_quota"]:
        _note_smaller_quota(stream, given["stream_quota"])
    if breaker := services.circuit_breakers.get(stream):
        _note_blocking(stream, breaker)


@click.command()
@click.option("--audience", type=int, metavar="ID", help="Only those of this audience.")
@configuration_option
@stream_option
@region_option
@json_option
def connections(
    *,
    audience: int | None,
    configuration: str | None,
    stream: str | None,
    region: str | None,
    as_json: bool,
) -> None:
    """List the connections: which audience goes to which stream.

    OPTIONS shows the settings that differ from the defaults, as options of `connect`.

    \b
    Examples:
      audience-firehose connections --audience 123123
    """
    found = application().services.registry.snapshot().connections
    rows = [
        connection_row(identifier, connection, current_settings().catalogue)
        for identifier, connection in sorted(found.items(), key=lambda item: (item[1].audience_id, item[0]))
    ]
    wanted = {
        "audience_id": audience,
        "configuration": configuration,
        "delivery_stream_name": stream,
        "region": region,
    }
    when_empty = "no such connections" if rows else "no connections yet"
    hint = f"{when_empty}; make one: audience-firehose connect --help"
    present(Listing(narrowed(rows, wanted), CONNECTION_COLUMNS, hint), as_json=as_json)


@click.command()
@click.option("--role-arn", metavar="ARN", help="Only those with this role.")
@click.option("--access-key-id", metavar="ID", help="Only those with this key.")
@click.option("--unused", is_flag=True, help="Only those that no connection uses.")
@json_option
def configurations(*, role_arn: str | None, access_key_id: str | None, unused: bool, as_json: bool) -> None:
    """List the configurations: the AWS identities to deliver with. Secrets are not shown."""
    snapshot = application().services.registry.snapshot()
    used = {connection.configuration for connection in snapshot.connections.values()}
    rows = [configuration_row(found) for name, found in sorted(snapshot.configurations.items())]
    listed = narrowed(rows, {"role_arn": role_arn, "access_key_id": access_key_id})
    if unused:
        listed = [row for row in listed if row["name"] not in used]
    when_empty = "no such configurations" if rows else "no configurations yet"
    hint = f"{when_empty}; make one: audience-firehose configure --help"
    present(Listing(listed, CONFIGURATION_COLUMNS, hint), as_json=as_json)


@click.command()
@click.argument("connection_id", shell_complete=complete_connection)
@json_option
def disconnect(connection_id: str, as_json: bool) -> None:
    """Stop sending an audience's changes to a stream.

    Records that are enqueued for the stream are still delivered while another connection leads to it.
    """
    app = application()
    connection = app.services.registry.disconnect(connection_id)
    record_action(app.services.audit, Action.DISCONNECT, connection_id)
    result(f"disconnected {connection_id}", as_json=as_json, id=connection_id, disconnected=True)
    if dead := sum(connection_id in letter.connection_ids for letter in app.services.dead_letters.all()):
        narrowed = f"--all --connection {connection_id}"
        note(
            f"{count(dead, 'dead letter')} of it left: `audience-firehose discard {narrowed}` forgets them;"
            f" to `replay {narrowed}`, connect it again first"
        )
    if connection is None:
        return
    stream = stream_of_connection(connection)
    if stream in app.services.registry.snapshot().streams:
        return
    app.services.circuit_breakers.resume(stream)
    try:
        waiting = queue_lengths(app, [stream.queue])[stream.queue]
    except OperationalError:
        note(f"the broker cannot be reached, so messages may remain unseen in {stream.queue}")
        return
    if waiting:
        note(
            f"{stream.queue} still holds {count(waiting, 'message')}, and no connection leads to that stream"
            " any more: connect it again to have them delivered"
        )


def _names(given: Mapping[str, object]) -> str:
    """The names of the settings that were given, without their values."""
    return ", ".join(name for name, value in given.items() if value is not None)


def standard_names(names: Sequence[str], catalogue: Catalogue) -> list[str]:
    """The identities to exclude, by their standard names, from their configured names."""
    return [_standard_name(name, catalogue) for name in names if name]


def options(row: Row) -> list[str]:
    """List the settings that differ from the defaults, as `connect` takes them."""
    defaults = {f.name: f.default for f in fields(Connection) if f.default is not MISSING}
    switches = [
        f"--{'' if row[name] else 'no-'}{name.replace('_', '-')}"
        for name, default in defaults.items()
        if isinstance(default, bool) and row[name] != default
    ]
    quota = [f"--stream-quota {row['stream_quota']}"] if row["stream_quota"] else []
    return switches + quota + [f"--exclude {name}" for name in row["identities_to_exclude"]]


def connection_row(identifier: str, connection: Connection, catalogue: Catalogue) -> Row:
    """A connection's settings, identities under their configured names."""
    excluded = [catalogue.configured_name(name) for name in connection.identities_to_exclude]
    return {"id": identifier, **asdict(connection), "identities_to_exclude": excluded}


def configuration_row(configuration: Configuration) -> Row:
    """A configuration's settings, without what nobody may see."""
    return {
        "id": configuration.name,
        **asdict(configuration),
        "secret_access_key": SET if configuration.secret_access_key else None,
        "session_token": SET if configuration.session_token else None,
        "external_id": SET if configuration.external_id else None,
    }


def _standard_name(name: str, catalogue: Catalogue) -> str:
    if name in catalogue.names:
        return catalogue.standard(name)
    folded = {known.casefold(): known for known in catalogue.names}
    near = [folded[match] for match in get_close_matches(name.casefold(), folded, n=3)]
    hint = (
        f"did you mean {' or '.join(near)}?"
        if near
        else f"the names are {', '.join(sorted(folded.values()))}"
    )
    raise InvalidSettings(f"--exclude: there is no identity {name!r}; {hint}")


def _check_access_key_id(access_key_id: str | None) -> None:
    """Refuse a stand-in's short key, such as LocalStack's `test`, where no stand-in is configured."""
    if access_key_id and len(access_key_id) < MIN_AWS_KEY_ID_LENGTH and not current_settings().has_endpoint:
        raise InvalidSettings(
            f"access_key_id: an access key ID of AWS has at least {MIN_AWS_KEY_ID_LENGTH} characters; for a"
            " local Firehose that takes another one, set AWS_ENDPOINT_URL_FIREHOSE"
        )


def _secrets(wanted: dict[str, bool]) -> dict[str, str]:
    """The secrets that are asked for, by setting; no command line and no terminal ever shows them.

    On stdin each is a line, in the order of `SECRET_LABELS`.
    """
    names = [name for name in SECRET_LABELS if wanted[name]]
    if not names:
        return {}
    if sys.stdin.isatty():
        return {name: str(click.prompt(SECRET_LABELS[name], hide_input=True, err=True)) for name in names}
    lines = sys.stdin.read().split()
    if len(lines) != len(names):
        options = " and ".join(f"--{name.replace('_', '-')}-stdin" for name in names)
        held = " and below it the token" if len(names) > 1 else ""
        raise InvalidSettings(f"{options}: stdin must hold the secret, in one line{held}, and nothing else")
    return dict(zip(names, lines, strict=True))


def _note_smaller_quota(stream: Stream, stated: str) -> None:
    quota = application().services.registry.snapshot().quota(stream)
    if stated_quota(quota, [stated]) != quota:
        note(
            f"another connection sets a smaller quota for {stream.name} in {stream.region}, and the smallest"
            " counts: find it with `audience-firehose connections`"
        )


def _note_blocking(stream: Stream, breaker: CircuitBreaker) -> None:
    if not breaker.is_paused:
        note(
            f"{stream.name} in {stream.region} is failing ({breaker.reason}):"
            " batches probe it until it takes one"
        )
        return
    connections = application().services.registry.snapshot().connections_to(stream)
    note(
        f"{stream.name} in {stream.region} is paused ({breaker.reason}): its records wait;"
        f" check it with `audience-firehose test {connections[0]}` or resume it"
    )
