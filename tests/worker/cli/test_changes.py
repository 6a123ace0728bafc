"""The command `send`."""

import bz2
import gzip
import io
import json
import lzma
import os
import signal

import pytest
from kombu.exceptions import OperationalError

from tasks.forward import forward
from worker.cli import change_files, changes
from worker.cli.change_files import CHUNK_BYTES, MAX_LINE_BYTES, chunks, lines
from worker.cli.change_formats import recognised

IDENTITY = "phileas@example.com"


def change(audience_id=7, **fields):
    added = {
        "type": "member_added",
        "audience_id": audience_id,
        "audience_internal_name": "Low",
        "user_identities": {"Email": IDENTITY},
    }
    return {**added, **fields}


def written(*items):
    """A file's lines: JSON of what is no text yet."""
    return "".join(f"{item if isinstance(item, str) else json.dumps(item)}\n" for item in items)


@pytest.fixture
def file(tmp_path):
    """Writes a file of changes."""

    def write(content):
        path = tmp_path / "the changes.jsonl"
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return path

    return write


def refuse():
    """Fail as a broker that has gone away."""
    raise OperationalError("Connection refused")


def test_changes_are_enqueued_as_they_came_and_in_their_order(operator, queues, file):
    sent = [
        change(1, timestamp=5),
        change(2),
        change(3, user_identities={"Email": "", "Other": None, "MPID": "1"}),
    ]
    result = operator.runs("send", file(written(*sent)))
    assert queues.changes() == [sent]
    assert result.stdout == "3 changes enqueued in 1 message\n"


def test_the_messages_are_calls_of_the_producer_and_show_nothing(operator, queues, file):
    operator.runs("send", file(written(change())))
    ((headers, _, _),) = queues.calls("audience.changes")
    assert headers["task"] == forward.name
    assert IDENTITY not in str(headers)


def test_a_pipe_is_read_as_well(operator, queues):
    operator.runs("send", "-", stdin=written(change(1), change(2)))
    assert queues.changes() == [[change(1), change(2)]]


def test_a_last_line_without_an_end_counts_and_blank_lines_do_not(operator, queues):
    operator.runs("send", "-", stdin="\n" + written(change(1)) + "  \r\n\n" + written(change(2)).rstrip())
    assert queues.changes() == [[change(1), change(2)]]


def test_a_byte_order_mark_does_not_make_the_first_line_invalid(operator, queues):
    operator.runs("send", "-", stdin=b"\xef\xbb\xbf" + written(change()).encode())
    assert queues.changes() == [[change()]]


@pytest.mark.parametrize(
    ("broken", "problem"),
    [
        ("{not json", "not JSON, at column 2"),
        ("null", "line 2: "),
        (f'["{IDENTITY}"]', "line 2: "),
        (change(audience_id="7"), "audience_id: not an integer"),
        (change(user_identities={"email": IDENTITY}), "user_identities: unknown identity name"),
        (change(**{IDENTITY: 1}), "unknown key"),
        (f'{{"type": "{IDENTITY}', "not JSON"),
        (change(type=IDENTITY), "type: unknown type"),
        ('{"type": "\\ud800"}', "not JSON"),
    ],
)
def test_a_broken_line_is_named_without_its_values_and_its_neighbours_go_out(
    operator, queues, broken, problem
):
    message = operator.fails("send", "-", stdin=written(change(1), broken, change(3)))
    assert "line 2: " in message
    assert problem in message
    assert IDENTITY not in message
    assert "1 line refused" in message
    assert queues.changes() == [[change(1), change(3)]]


def test_a_line_that_is_not_utf8_is_named(operator, queues):
    message = operator.fails("send", "-", stdin=b'{"type": "\xff"}\n' + written(change()).encode())
    assert "line 1: not UTF-8, at byte 11" in message
    assert queues.changes() == [[change()]]


def test_a_line_that_is_too_long_is_skipped_unread(operator, queues):
    long = " " * (3 * MAX_LINE_BYTES)
    message = operator.fails("send", "-", stdin=written(change(1)) + long + "\n" + written(change(3), "{"))
    assert f"line 2: longer than {MAX_LINE_BYTES} bytes" in message
    assert "line 4: not JSON" in message
    assert queues.changes() == [[change(1), change(3)]]


def with_lines(text, encoding, *, mark=b""):
    return mark + text.encode(encoding)


LINES = written(change(1), change(2))
OTHER_FORMATS = {
    "UTF-16 of Windows": (with_lines(LINES, "utf-16-le", mark=b"\xff\xfe"), "UTF-16", "iconv -f UTF-16 "),
    "UTF-16, big-endian": (with_lines(LINES, "utf-16-be", mark=b"\xfe\xff"), "UTF-16", "iconv -f UTF-16 "),
    "UTF-16 without a mark": (with_lines(LINES, "utf-16-le"), "UTF-16", "iconv -f UTF-16LE "),
    "a JSON array": (json.dumps([change(1), change(2)], indent=1).encode(), "a JSON array", "jq -c '.[]'"),
    "an array behind blank lines": (b"\n\n [\n" + LINES.encode(), "a JSON array", "jq -c '.[]'"),
    "indented JSON": (json.dumps(change(1), indent=1).encode(), "over several lines", "jq -c . "),
    "CSV": (f"type,audience_id,email\nmember_added,7,{IDENTITY}\n".encode(), "CSV", "JSON object"),
    "CSV with quotes": (f'"type";"e-mail"\n"member_added";"{IDENTITY}"\n'.encode(), "CSV", "JSON object"),
    "bzip2": (bz2.compress(LINES.encode()), "bzip2", "bzcat"),
    "xz": (lzma.compress(LINES.encode()), "xz", "xzcat"),
    "a JSON array in gzip": (gzip.compress(b"[{}]"), "a JSON array", "jq -c '.[]'"),
}


@pytest.mark.parametrize(("content", "name", "advice"), OTHER_FORMATS.values(), ids=OTHER_FORMATS)
def test_another_format_is_one_error_that_says_what_to_do(operator, queues, content, name, advice):
    message = operator.fails("send", "-", stdin=content)
    assert len(message.splitlines()) == 1
    assert name in message
    assert advice in message
    assert IDENTITY not in message
    assert queues.changes() == []


@pytest.mark.parametrize("parts", [1, 2])
def test_gzip_is_decompressed_from_a_file_and_from_a_pipe(operator, queues, file, parts):
    content = b"".join(gzip.compress(LINES.encode()) for _ in range(parts))
    operator.runs("send", file(content))
    operator.runs("send", "-", stdin=content)
    assert queues.changes() == [[change(1), change(2)] * parts] * 2


def test_gzip_that_is_cut_off_is_one_error_with_a_line_to_go_on_from(operator, queues, file):
    # Different lines, so that the first message's are decompressed before the end is missed.
    items = [change(i, audience_internal_name=os.urandom(64).hex()) for i in range(1800)]
    message = operator.fails("send", file(gzip.compress(written(*items).encode())[:-2_000]))
    assert "the file's gzip is cut off or corrupt" in message
    sent = sum(map(len, queues.changes()))
    assert 0 < sent < 1800
    assert f"--from-line {sent + 1} " in message


def test_from_line_counts_decompressed_lines(operator, queues, file):
    operator.runs("send", "--from-line", 2, file(gzip.compress(LINES.encode())))
    assert queues.changes() == [[change(2)]]


def test_lines_of_a_pipe_are_recognised_without_waiting_for_its_end():
    read, write = os.pipe()
    with os.fdopen(read, "rb") as pipe:
        os.write(write, LINES.encode())
        content, size = recognised(pipe)
        assert [content.readline(), content.readline()] == [line.encode() for line in LINES.splitlines(True)]
        assert size is None
        os.close(write)
        assert content.readline() == b""


def test_a_file_of_nothing_but_broken_lines_sends_no_message(operator, queues):
    assert "2 lines refused" in operator.fails("send", "-", stdin="{x\n[]\n")
    assert queues.changes() == []


def test_a_message_holds_500_changes(operator, queues):
    operator.runs("send", "-", stdin=written(*(change(i) for i in range(1001))))
    messages = queues.changes()
    assert [len(message) for message in messages] == [500, 500, 1]
    assert [item["audience_id"] for message in messages for item in message] == list(range(1001))


def test_a_message_holds_a_megabyte_unless_one_change_is_larger():
    sizes = [CHUNK_BYTES // 2, CHUNK_BYTES // 2, 1, CHUNK_BYTES * 2, 1]
    file = io.BytesIO(b"".join(b"x" * (size - 1) + b"\n" for size in sizes))
    assert [[line.size for line in chunk] for chunk in chunks(lines(file))] == [
        sizes[:2],
        sizes[2:3],
        sizes[3:4],
        sizes[4:],
    ]


def test_a_file_of_any_size_is_read_in_pieces():
    class Endless(io.RawIOBase):
        """A line without an end, which records how much of it is read at once."""

        asked = 0
        pieces = 10

        def readline(self, size=-1):
            Endless.asked = max(Endless.asked, size if size >= 0 else 2**63)
            self.pieces -= 1
            return b"x" * size if self.pieces > 0 else b""

    (line,) = lines(Endless())
    assert line.content is None
    assert Endless.asked <= MAX_LINE_BYTES + 1


def test_from_line_begins_there_and_keeps_counting_from_the_top(operator, queues):
    message = operator.fails("send", "--from-line", 3, "-", stdin=written(change(1), "{", change(3), "{"))
    assert "line 2:" not in message
    assert "line 4: not JSON" in message
    assert queues.changes() == [[change(3)]]


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_stops_between_two_messages_and_says_how_to_go_on(operator, file, sending, number, status):
    path = file(written(*(change(i) for i in range(1800))))
    sending.at_second = lambda: os.kill(os.getpid(), number)
    before = signal.getsignal(number)
    stopped = operator.tries("send", path)
    assert stopped.exit_code == status
    assert "1,000 changes enqueued in 2 messages" in stopped.stderr
    assert f"audience-firehose send --from-line 1001 '{path}'" in stopped.stderr
    assert signal.getsignal(number) is before


def test_going_on_where_a_signal_stopped_misses_and_repeats_nothing(operator, queues, file, sending):
    path = file(written(*(change(i) for i in range(1800))))
    sending.at_second = lambda: os.kill(os.getpid(), signal.SIGINT)
    operator.tries("send", path)
    operator.runs("send", "--from-line", 1001, path)
    assert [item["audience_id"] for message in queues.changes() for item in message] == list(range(1800))


def test_a_signal_while_waiting_for_input_does_not_wait_for_more(operator, queues, monkeypatch):
    def interrupted(file):
        os.kill(os.getpid(), signal.SIGTERM)
        yield from change_files.lines(file)

    monkeypatch.setattr(changes, "lines", interrupted)
    stopped = operator.tries("send", "-", stdin=written(change()))
    assert stopped.exit_code == 143
    assert "--from-line 1 -" in stopped.stderr
    assert queues.changes() == []


def test_a_broker_that_goes_away_leaves_a_line_to_go_on_from(operator, file, sending):
    sending.at_second = refuse
    message = operator.fails("send", file(written(*(change(i) for i in range(600)))))
    assert "CELERY_BROKER_URL" in message
    assert "500 changes enqueued in 1 message" in message
    assert "--from-line 501" in message


def test_a_broker_that_is_away_is_named_without_waiting(operator, no_broker, file):
    assert "CELERY_BROKER_URL" in operator.fails("send", file(written(change())))


def test_a_file_that_is_not_there_is_named(operator, tmp_path):
    assert "No such file" in operator.fails("send", tmp_path / "nothing.jsonl")
    assert "Is a directory" in operator.fails("send", tmp_path)
