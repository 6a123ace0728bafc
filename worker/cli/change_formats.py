"""The format of a file of changes, recognised by its first line, so that a wrong one is one error.

Changes come as JSON lines in UTF-8, or as gzip of them. Another format would make an error of each
of its lines, so it is recognised before any line is read, and the error says how to convert it.
"""

import gzip
import io
import os
import re
import stat
from typing import BinaryIO, NamedTuple, cast

from worker.errors import UnknownFormat

HEAD_BYTES = 4096
"""Read of a line to recognise a format by."""
MAX_BLANK_BYTES = 65_536
"""The most bytes of blank lines that are skipped before the first line."""

BYTE_ORDER_MARK = b"\xef\xbb\xbf"
GZIP = b"\x1f\x8b"

MAGIC_BYTES = {
    b"\xff\xfe": ("UTF-16", "iconv -f UTF-16 -t UTF-8 FILE"),
    b"\xfe\xff": ("UTF-16", "iconv -f UTF-16 -t UTF-8 FILE"),
    b"{\0": ("UTF-16", "iconv -f UTF-16LE -t UTF-8 FILE"),
    b"\0{": ("UTF-16", "iconv -f UTF-16BE -t UTF-8 FILE"),
    b"BZh": ("bzip2", "bzcat FILE"),
    b"\x28\xb5\x2f\xfd": ("zstd", "zstdcat FILE"),
    b"\xfd7zXZ": ("xz", "xzcat FILE"),
    b"PK\x03\x04": ("zip", "unzip -p FILE"),
}
"""By a file's first bytes, its format, and the command that makes JSON lines of it."""
FIRST_LINES = (
    (re.compile(rb"\[.*"), "a JSON array", "jq -c '.[]' FILE"),
    (re.compile(rb"\{"), "JSON that is spread over several lines", "jq -c . FILE"),
)
"""By a file's first line without its blanks, the same."""
CSV_HEADING = re.compile(rb'"?[A-Za-z][\w .-]*"?(?:[,;\t]"?[\w .-]*"?)+')


class ChangeFile(NamedTuple):
    """A file of changes, ready to be read by lines."""

    content: BinaryIO
    """JSON lines."""
    size: int | None
    """Bytes of the content; None where that is not known."""


def recognised(file: BinaryIO) -> ChangeFile:
    """The file's lines, decompressed where it is gzip. Raises `UnknownFormat`, which says what to do."""
    head = _head(file)
    if head.startswith(GZIP):
        unzipped = cast(BinaryIO, gzip.GzipFile(fileobj=_rejoined(head, file)))
        head = _head(unzipped)
        _check(head)
        return ChangeFile(_rejoined(head, unzipped), None)
    _check(head)
    return ChangeFile(_rejoined(head, file), _size(file))


def _head(file: BinaryIO) -> bytes:
    """The first line that is not blank, and the blank ones before it; or as much of them as is needed."""
    head = b""
    while line := file.readline(HEAD_BYTES):
        head += line
        if line.strip() or len(head) > MAX_BLANK_BYTES:
            break
    return head


def _check(head: bytes) -> None:
    """Raise `UnknownFormat` where the head begins another format than JSON lines."""
    line = head.removeprefix(BYTE_ORDER_MARK).strip()
    found = [known for magic, known in MAGIC_BYTES.items() if head.startswith(magic)]
    found += [(name, command) for pattern, name, command in FIRST_LINES if pattern.fullmatch(line)]
    if found:
        name, command = found[0]
        raise UnknownFormat(
            f"the file is {name}, not JSON lines; convert it: {command} | audience-firehose send -"
        )
    if CSV_HEADING.fullmatch(line):
        raise UnknownFormat(
            "the file begins with a heading, as CSV does; each line must be a change as a JSON object, as"
            " `audience-firehose send --help` shows"
        )


def _size(file: BinaryIO) -> int | None:
    """The bytes of a file; None of a pipe or a terminal."""
    try:
        found = os.fstat(file.fileno())
    except OSError:
        return None
    return found.st_size if stat.S_ISREG(found.st_mode) else None


class _Rejoined(io.RawIOBase):
    """A stream of the bytes that were already read of a file, then of the rest of it."""

    def __init__(self, head: bytes, rest: BinaryIO) -> None:
        self._head = head
        self._rest = cast(io.BufferedIOBase, rest)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: bytearray) -> int:  # type: ignore[override]
        # `read1` takes what is there. `readinto1` would wait for a pipe to fill the whole buffer.
        content = self._head[: len(buffer)] or self._rest.read1(len(buffer))
        self._head = self._head[len(buffer) :]
        buffer[: len(content)] = content
        return len(content)


def _rejoined(head: bytes, rest: BinaryIO) -> BinaryIO:
    return cast(BinaryIO, io.BufferedReader(_Rejoined(head, rest)))
