"""Any arguments at all for `audience-firehose`: an answer, or what is wrong in a line; never a traceback."""

import json

import pytest
from click.testing import CliRunner
from hostile import JSON, PERSONAL, TEXT, inputs, mutations
from hypothesis import given
from hypothesis import strategies as st
from kombu.transport import memory

from worker.celery import app
from worker.cli import ENTRIES, main

EXIT_CODES = {0, 1, 2}
ADDED = {
    "type": "member_added",
    "audience_id": 1,
    "audience_external_name": "Name",
    "user_identities": {"CustomerId": PERSONAL},
}

ARGUMENT = TEXT.map(lambda text: text.replace("\0", "")) | st.integers().map(str)
"""No program is ever given a null byte."""
OPTION = st.sampled_from(
    [
        "--access-key-id", "--secret-access-key-stdin", "--role-arn", "--external-id",
        "--send-remove-on-identity-change", "--no-send-remove-on-identity-change",
        "--configuration", "--delivery-stream-name", "--region", "--exclude",
        "--send-anonymous-users", "--no-forward-idfas", "--append-newline", "--stream-quota", "--account-id",
        "--json", "--since", "--all", "--connection", "--yes", "--from-line", "--help",
        "--version", "--", "-",
    ]
)  # fmt: skip
VALUE = st.sampled_from(
    [
        "main",
        "travel",
        "us-east-1",
        "mars-1",
        "1MiB/s+200requests/s",
        "Email",
        "12h",
        "123456789012",
        "arn:aws:iam::123456789012:role/x",
        "AKIA" * 4,
    ]
)
COMMAND = st.sampled_from(sorted(ENTRIES)) | ARGUMENT


@st.composite
def lines(draw):
    """The arguments of one call; `--follow` alone never ends, and is left out."""
    words = draw(st.lists(OPTION | VALUE | ARGUMENT | st.just("CONNECTION"), max_size=7))
    return [draw(COMMAND), *(word for word in words if not "--follow".startswith(word[:5] or "x"))]


@pytest.fixture
def commands(world, monkeypatch):
    """`audience-firehose` over a broker and a Redis in memory, where an audience 1 has a stream."""
    monkeypatch.setenv("CELERY_BROKER_WRITE_URL", "memory://")
    monkeypatch.setenv("AWS_ENDPOINT_URL_FIREHOSE", "http://127.0.0.1:1")

    def run(*arguments, stdin=b""):
        world.begin()
        (identifier,) = world.services.registry.snapshot().connections
        given_ = [identifier if argument == "CONNECTION" else argument for argument in arguments]
        result = CliRunner().invoke(main, given_, input=stdin)
        assert result.exit_code in EXIT_CODES, result.output
        assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
        assert "Traceback" not in result.output
        assert "a defect in audience-firehose" not in result.output
        assert result.exit_code == 0 or result.output.strip(), "it failed in silence"
        return result

    yield run
    memory.Channel.queues.clear()


@inputs(1500)
@given(arguments=lines(), stdin=st.binary(max_size=50))
def test_any_arguments_end_in_one_line_and_no_traceback(commands, arguments, stdin):
    commands(*arguments, stdin=stdin)


@inputs(500)
@given(
    found=st.lists(
        st.binary(max_size=80)
        | JSON.map(lambda item: json.dumps(item).encode())
        | mutations(ADDED).map(lambda item: json.dumps(item).encode()),
        max_size=5,
    ),
    end=st.sampled_from([b"\n", b"\r\n", b"\n\n", b"\0\n", b"\xef\xbb\xbf\n"]),
    options=st.sampled_from([[], ["--from-line", "2"], ["--from-line", "99"]]),
)
def test_the_valid_lines_of_a_broken_file_are_sent(commands, found, end, options):
    good = json.dumps(ADDED | {"user_identities": {"CustomerId": "mark"}}).encode()
    result = commands("send", "-", *options, stdin=b"\n".join([good, *found]) + end + good)
    assert PERSONAL not in result.output
    if not options:
        assert [change for change in enqueued() if change["user_identities"].get("CustomerId") == "mark"]


def enqueued():
    """The changes that wait for a worker."""
    found = []
    with app.connection_for_write() as connection, connection.channel() as channel:
        while message := channel.basic_get("audience.changes", no_ack=True):
            found += message.payload[1]["changes"]
    return found
