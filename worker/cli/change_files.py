"""The lines of a file of changes, checked in chunks, so that a file of any size takes little memory."""

from collections.abc import Iterable, Iterator
from typing import Any, BinaryIO, NamedTuple

import orjson

from schemas.changes import ChangeSchema, check_changes
from worker.cli.change_formats import BYTE_ORDER_MARK

MAX_LINE_BYTES = 4 * 2**20
"""Room for two records of Firehose's largest size, with every other character escaped."""
CHUNK_CHANGES = 500
CHUNK_BYTES = 1_000_000
"""The most bytes of changes in a message, unless a single change is larger."""


class Line(NamedTuple):
    """A line of the file; where it is too long, without its content."""

    number: int
    """From 1 on."""
    content: bytes | None
    """None where it is too long."""
    size: int
    """Bytes, its end included."""

    @property
    def is_blank(self) -> bool:
        """Whether there is nothing on it."""
        return self.content is not None and not self.content.strip()


class Checked(NamedTuple):
    """A chunk of lines after its check."""

    changes: list[Any]
    """The valid changes, as they stood in the file."""
    problems: dict[int, str]
    """By line number, what is wrong, without its values."""


def lines(file: BinaryIO) -> Iterator[Line]:
    """The file's lines, one at a time."""
    number = 0
    while content := file.readline(MAX_LINE_BYTES + 1):
        number += 1
        if len(content) > MAX_LINE_BYTES and not content.endswith(b"\n"):
            yield Line(number, None, len(content) + _skip_line(file))
        else:
            yield Line(number, content, len(content))


def chunks(lines: Iterable[Line]) -> Iterator[list[Line]]:
    """The lines in their order, as many together as one message holds."""
    chunk: list[Line] = []
    held = 0
    for line in lines:
        size = len(line.content or b"")
        if chunk and (len(chunk) == CHUNK_CHANGES or held + size > CHUNK_BYTES):
            yield chunk
            chunk, held = [], 0
        chunk.append(line)
        held += size
    if chunk:
        yield chunk


def checked(schema: ChangeSchema, chunk: list[Line]) -> Checked:
    """Separate the valid changes from what is wrong. Empty lines are neither."""
    numbers: list[int] = []
    items: list[Any] = []
    problems: dict[int, str] = {}
    for line in chunk:
        if line.is_blank:
            continue
        try:
            items.append(_parsed(line))
            numbers.append(line.number)
        except ValueError as error:
            problems[line.number] = str(error)
    # A change without a timestamp is sent without one: the producer task knows when the message was received.
    _, invalid = check_changes(schema, items, received_at=lambda: 0)
    wrong = {found.position for found in invalid}
    problems |= {numbers[found.position]: "; ".join(found.problems) for found in invalid}
    changes = [item for position, item in enumerate(items) if position not in wrong]
    return Checked(changes, dict(sorted(problems.items())))


def _skip_line(file: BinaryIO) -> int:
    """Read to the line's end, a piece at a time. Returns the number of bytes."""
    skipped = 0
    while piece := file.readline(MAX_LINE_BYTES):
        skipped += len(piece)
        if piece.endswith(b"\n"):
            break
    return skipped


def _parsed(line: Line) -> Any:
    """The JSON of the line. Raises `ValueError`, which says what is wrong without showing it."""
    if line.content is None:
        raise ValueError(f"longer than {MAX_LINE_BYTES} bytes")
    content = line.content.removeprefix(BYTE_ORDER_MARK) if line.number == 1 else line.content
    try:
        return orjson.loads(content.decode())
    except UnicodeDecodeError as error:
        raise ValueError(f"not UTF-8, at byte {error.start + 1}") from None
    except orjson.JSONDecodeError as error:
        raise ValueError(f"not JSON, at column {error.colno}") from None
