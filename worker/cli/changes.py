"""The command `send`: changes from a file or a pipe into the broker."""

import gzip
import shlex
import zlib
from dataclasses import dataclass
from itertools import islice
from typing import BinaryIO

import click
from kombu.exceptions import OperationalError

from schemas.changes import ChangeSchema
from worker.broker.client import Sender, sender
from worker.cli.application import application
from worker.cli.change_files import Checked, Line, checked, chunks, lines
from worker.cli.change_formats import recognised
from worker.cli.explanations import explain
from worker.cli.interruption import Interrupted, Interruption
from worker.cli.output import count, json_option, note, note_beside_progress, progress, result
from worker.config import current_settings
from worker.queues import CHANGES_QUEUE, FORWARD

STDIN = "<stdin>"
CORRUPT_GZIP = (gzip.BadGzipFile, EOFError, zlib.error)


@dataclass
class Sending:
    """The progress of a file."""

    next_line: int
    """The first line that is neither enqueued nor refused."""
    enqueued: int = 0
    """Changes."""
    messages: int = 0
    refused: int = 0
    """Lines."""

    def record(self, chunk: list[Line], found: Checked) -> None:
        """Record that the chunk's changes are in the broker."""
        self.next_line = chunk[-1].number + 1
        self.enqueued += len(found.changes)
        self.messages += bool(found.changes)
        self.refused += len(found.problems)

    def __str__(self) -> str:
        return f"{count(self.enqueued, 'change')} enqueued in {count(self.messages, 'message')}"


@click.command()
@click.argument("file", metavar="FILE|-", type=click.File("rb", lazy=False))
@click.option("--from-line", type=click.IntRange(min=1), default=1, metavar="N", help="Begin with line N.")
@json_option
def send(file: BinaryIO, from_line: int, as_json: bool) -> None:
    """Enqueue membership changes, one JSON object a line; gzip is decompressed.

    Each line is checked as the workers check it. A broken one is reported with its number,
    its neighbours are enqueued, and the exit status is not 0. A stopped run says from which
    line to go on.

    \b
    Examples:
      audience-firehose send changes.jsonl
      audience-firehose send changes.jsonl.gz
      jq -c '.[]' changes.json | audience-firehose send -
      echo '{"type": "audience_deleted", "audience_id": 123123, "audience_internal_name": "Low"}' |
          audience-firehose send -
    """
    sending = Sending(next_line=from_line)
    with sender(application()) as broker:
        try:
            _send(file, sending, broker)
        except Interrupted as stop:
            note(f"stopped: {sending}; {_how_to_go_on(file, sending)}")
            raise click.exceptions.Exit(stop.exit_status) from None
        except CORRUPT_GZIP:
            raise click.ClickException(
                f"the file's gzip is cut off or corrupt. {sending}; with the whole file,"
                f" {_how_to_go_on(file, sending)}"
            ) from None
        except OperationalError as error:
            raise click.ClickException(
                f"{explain(error)}. {sending}; {_how_to_go_on(file, sending)}"
            ) from None
    result(
        str(sending),
        as_json=as_json,
        enqueued=sending.enqueued,
        messages=sending.messages,
        refused=sending.refused,
    )
    if sending.refused:
        raise click.ClickException(f"{count(sending.refused, 'line')} refused; correct and send those alone")


def _send(file: BinaryIO, sending: Sending, broker: Sender) -> None:
    schema = ChangeSchema(current_settings().catalogue)
    with Interruption() as interruption:
        content, size = recognised(file)
        source = lines(content)
        with progress(size, "Enqueueing") as advance:
            advance(sum(line.size for line in islice(source, sending.next_line - 1)))
            for chunk in chunks(source):
                found = checked(schema, chunk)
                with interruption.step():
                    _send_chunk(chunk, found, sending, broker)
                advance(sum(line.size for line in chunk))


def _send_chunk(chunk: list[Line], found: Checked, sending: Sending, broker: Sender) -> None:
    if found.changes:
        broker.send(FORWARD, {"changes": found.changes}, queue=CHANGES_QUEUE)
    sending.record(chunk, found)
    for number, problem in found.problems.items():
        note_beside_progress(f"line {number}: {problem}")


def _how_to_go_on(file: BinaryIO, sending: Sending) -> str:
    name = getattr(file, "name", STDIN)
    source = "-" if name == STDIN else shlex.quote(str(name))
    return f"go on with: audience-firehose send --from-line {sending.next_line} {source}"
