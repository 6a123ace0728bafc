"""The operator's command: `audience-firehose`."""

import errno
from difflib import get_close_matches
from importlib import import_module
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import click

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

INTERRUPTED = 130
"""The exit status that a shell gives a command which Ctrl-C ended."""


class Entry(NamedTuple):
    """A command before it is loaded."""

    module: str
    """In this package; the command has the entry's name there."""
    summary: str


SECTIONS = {
    "Configurations and connections": {
        "configure": Entry("settings", "Store an AWS identity, new or changed."),
        "connect": Entry("settings", "Tie an audience to a delivery stream, or change how."),
        "connections": Entry("settings", "List the connections."),
        "configurations": Entry("settings", "List the configurations."),
        "forget-configuration": Entry("configurations", "Remove a configuration that no connection uses."),
        "reencrypt": Entry("configurations", "Encrypt the stored secrets with a new key."),
        "disconnect": Entry("settings", "Remove a connection."),
        "test": Entry("streams", "Check that a connection's stream can be delivered to."),
        "policy": Entry("streams", "Print the IAM policy that a connection needs."),
    },
    "Changes": {
        "reroute": Entry("reroute", "Move changes out of Celery's default queue."),
        "send": Entry("changes", "Enqueue changes from a file or a pipe."),
        "explain": Entry("explain", "Show the records that a change would make."),
    },
    "Failures": {
        "alerts": Entry("alerts", "List the system alerts."),
        "notify": Entry("notify", "Send a test message to where alerts are sent."),
        "audit": Entry("audit", "List who did what."),
        "acknowledge": Entry("alerts", "Mark alerts as seen."),
        "dead-letters": Entry("failures", "List the records that could not be delivered."),
        "show-dead-letter": Entry("dead_letter", "Show a dead letter and, on request, what it holds."),
        "replay": Entry("failures", "Send dead letters again."),
        "discard": Entry("failures", "Forget dead letters and their records."),
    },
    "Servers": {
        "doctor": Entry("doctor", "Check the broker's and the state's servers."),
    },
    "Streams": {
        "status": Entry("streams", "Show what has become of the records, per stream."),
        "pause": Entry("streams", "Stop delivering to a connection's stream."),
        "resume": Entry("streams", "Let a paused stream flow again."),
    },
}
ENTRIES = {name: entry for section in SECTIONS.values() for name, entry in section.items()}


class Commands(click.Group):
    """Loads a command when it is asked for, so that help comes at once; makes every error one line."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(ENTRIES)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in ENTRIES:
            return None
        module = import_module(f"{__name__}.{ENTRIES[cmd_name].module}")
        return cast(click.Command, getattr(module, cmd_name.replace("-", "_")))

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if (
            not ctx.resilient_parsing
            and args[0] not in ENTRIES
            and (near := get_close_matches(args[0], ENTRIES, n=3))
        ):
            ctx.fail(f"no such command: {args[0]!r}; did you mean {' or '.join(near)}?")
        return super().resolve_command(ctx, args)

    def shell_complete(self, ctx: click.Context, incomplete: str) -> "list[CompletionItem]":
        """The names of commands, without loading each for its help."""
        # Imported when a shell asks: help need not wait for it.
        from click.shell_completion import CompletionItem  # noqa: PLC0415

        named = [name for name in ENTRIES if name.startswith(incomplete) and not incomplete.startswith("-")]
        return [
            *(CompletionItem(name, help=ENTRIES[name].summary) for name in named),
            *(super().shell_complete(ctx, incomplete) if not named else ()),
        ]

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        for title, entries in SECTIONS.items():
            with formatter.section(title):
                formatter.write_dl([(name, entry.summary) for name, entry in entries.items()])

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            click.echo("interrupted", err=True)
            ctx.exit(INTERRUPTED)
        except (click.ClickException, click.Abort, click.exceptions.Exit):
            raise
        except Exception as error:
            if getattr(error, "errno", None) == errno.EPIPE:
                # The reader of the output has closed the pipe; click ends without a message.
                raise
            # What explains them imports what raises them, which a command without errors may not need.
            explanations = import_module(f"{__name__}.explanations")
            raise click.ClickException(explanations.explain(error)) from None


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="audience-firehose")
def main() -> None:
    """Forward audience membership changes to Amazon Kinesis Firehose.

    \b
    Begin with an AWS identity, a connection, and a test:
      audience-firehose configure main --role-arn arn:aws:iam::123456789012:role/forwarder
      audience-firehose connect 123123 --configuration main --delivery-stream-name audiences
      audience-firehose test 123123-ab12cd34

    Every command has its own --help. CELERY_BROKER_URL and
    AUDIENCE_REDIS_URL name the servers.
    """
    # Imported when a command runs: help neither waits for it nor needs its settings.
    from worker.config import current_log_format  # noqa: PLC0415
    from worker.logs.setup import set_up_logs  # noqa: PLC0415

    set_up_logs(current_log_format())
