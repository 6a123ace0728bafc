"""Every command that the documents print is run as it is copied, against a private Redis and a fake Firehose.

`NOT_RUN` says why some are not run. A code span of a command without its arguments only mentions it.
"""

import json
import os
import re
import shlex
import subprocess
import threading
from contextlib import nullcontext
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib import import_module

import click
import pytest
from celery.bin.worker import worker as celery_worker
from chaos import in_full
from documents import DOCS, code_spans, fenced_lines, name, text
from stack import ACCESS_KEY_ID, SECRET_ACCESS_KEY, Stack
from waiting import eventually

from devstack import processes
from devstack.firehose import FakeFirehose
from devstack.ports import free_port
from worker.cli import ENTRIES, main
from worker.failures.alert_types import AlertType, Failure
from worker.failures.dead_lettering import Undeliverable
from worker.failures.dead_letters import Message
from worker.queues import Stream

PROGRAMS = ("audience-firehose", "celery -A worker", "python -m", "make", "docker")
SETTINGS = r"(?:[A-Z_]+=\S+ )*"
COMMAND = re.compile(rf"{SETTINGS}(?:{'|'.join(PROGRAMS)}) .+|eval .+|\S+ audience-firehose \| .+")
SYNOPSIS = re.compile(r"\[|\bCOMMAND\b|…|──")
STREAM = Stream("acme", "us-east-1", "mPTravelAudiences")
AUDIENCE = 123123
CONNECTION = "123123-c42691bf"
LETTER = "letter"
CHANGE = {
    "type": "member_added",
    "audience_id": AUDIENCE,
    "audience_external_name": "LowEngagement",
    "user_identities": {"CustomerId": "p.fogg138"},
}
PLACEHOLDERS = {"DEAD_LETTER_ID": LETTER, "CONNECTION_ID": CONNECTION, "--concurrency N": "--concurrency 2"}
LASTING = ("worker", "dashboard", "flower")
"""Celery's commands that run until a signal ends them."""
NOT_RUN = {
    "make ": "Makefile's targets take minutes; that they exist is tested below",
    "python -m benchmarks": "a benchmark takes minutes; that it exists is tested below",
    "python -m devstack records": "needs `make up`: tests/devstack/test_demo.py runs both",
    "docker compose": "needs Docker: tests/project/test_compose.py reads its file",
    "FLOWER_BASIC_AUTH=admin:secret docker compose": "the same",
    "celery -A worker purge": "is refused: tests/end_to_end/test_queues.py asks for it",
    "audience-firehose status --watch": "needs a terminal: tests/worker/cli/test_terminal.py has one",
    'eval "$(_AUDIENCE_FIREHOSE_COMPLETE=zsh_source': "needs zsh: test_completion.py tests what is completed",
    "_AUDIENCE_FIREHOSE_COMPLETE=fish_source": "needs fish: test_completion.py tests what is completed",
}
"""By the beginning of a command, the reason."""
TIMEOUT_SECONDS = 120.0


def commands(markdown):
    """The commands of a document, as they would be copied."""
    lines = [line.partition("  # ")[0].partition("    # ")[0].strip() for line in fenced_lines(markdown)]
    for line in [*lines, *code_spans(markdown)]:
        if COMMAND.fullmatch(line) and not SYNOPSIS.search(line) and not is_mention(line):
            yield line


def is_mention(line):
    """Whether it is a command of ours without the arguments that it takes."""
    program, *words = shlex.split(line)
    if program != "audience-firehose" or len(words) != 1 or words[0] not in ENTRIES:
        return False
    command = main.get_command(click.Context(main), words[0])
    return any(isinstance(parameter, click.Argument) for parameter in command.params)


def lasting(line):
    """The command of Celery that runs until a signal ends it; None where the line is another command."""
    found = re.search(r"celery -A worker (\w+)", line)
    return found[1] if found and found[1] in LASTING else None


def subcommand(line):
    """The words of a command up to its first argument or option."""
    return re.match(r"(\S+ -A worker \w+|\S+ \S+)", line)[1]


def first_of_each(kind, commands):
    """Of each kind of command the one that is printed first, and the others in full size."""
    first = {kind(command): command for command in reversed(commands)}.values()
    return [*first, *in_full(*((command,) for command in commands if command not in first))]


PRINTED = list(dict.fromkeys((command, name(path)) for path in DOCS for command in commands(text(path))))
LEFT_OUT = tuple(NOT_RUN)
RUN = list(dict.fromkeys(command for command, _ in PRINTED if not command.startswith(LEFT_OUT)))
PROGRAMS_RUN = [command for command in RUN if lasting(command)]
BRIEF = [command for command in RUN if command not in PROGRAMS_RUN]


@pytest.fixture(scope="module")
def servers(tmp_path_factory):
    directory = tmp_path_factory.mktemp("commands")
    with processes.redis(directory) as (_, url), FakeFirehose() as firehose:
        firehose.create(STREAM.name, STREAM.region)
        yield Stack(directory, url, firehose, (0, 1))


@pytest.fixture
def installation(servers):
    """The documents' configuration and connection, a dead letter, and a change in a file."""
    services = servers.services
    services.registry.configure(
        name=STREAM.configuration, access_key_id=ACCESS_KEY_ID, secret_access_key=SECRET_ACCESS_KEY
    )
    connected = services.registry.connect(
        audience_id=AUDIENCE, configuration=STREAM.configuration, delivery_stream_name=STREAM.name
    )
    assert connected == CONNECTION
    services.dead_lettering.dead_letter(
        Undeliverable(
            LETTER,
            Message(STREAM.task, STREAM.queue, {"records": []}),
            Failure(AlertType.RETRY_LIMIT_EXCEEDED, "ServiceUnavailableException", "throttled"),
            records=1,
            stream=STREAM,
            connection_ids=[CONNECTION],
        )
    )
    (servers.directory / "changes.jsonl").write_text(json.dumps(CHANGE))
    return servers


@pytest.fixture(scope="module")
def webhook():
    """The apprise URL of a web server that accepts what is posted to it."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            self.rfile.read(int(self.headers["Content-Length"]))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_):
            """Say nothing."""

    with ThreadingHTTPServer((processes.LOOPBACK, 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"json://{processes.LOOPBACK}:{server.server_port}"
        server.shutdown()


def as_copied(command):
    """The command with values for what the documents leave open."""
    for placeholder, value in PLACEHOLDERS.items():
        command = command.replace(placeholder, value)
    return command


def environment(stack, webhook):
    """The settings of an operator's shell."""
    settings = {
        **stack.environment,
        "AWS_ACCESS_KEY_ID": ACCESS_KEY_ID,
        "AWS_SECRET_ACCESS_KEY": SECRET_ACCESS_KEY,
        "AUDIENCE_ALERT_URLS": webhook,
        "FLOWER_PORT": str(free_port()),
    }
    return processes.private_environment(settings) | {
        "PATH": f"{processes.BIN}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(processes.ROOT),
    }


@pytest.mark.parametrize("command", first_of_each(subcommand, BRIEF))
def test_a_command_that_the_documents_print_succeeds_when_it_is_copied(installation, webhook, command):
    if command == "audience-firehose forget-configuration acme":
        installation.services.registry.disconnect(CONNECTION)
    # `celery control` asks workers, and fails where none answers.
    worker = installation.worker() if " control " in command else nullcontext()
    with worker:
        done = subprocess.run(
            ["bash", "-c", as_copied(command)],
            env=environment(installation, webhook),
            cwd=installation.directory,
            input="wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY\n",
            capture_output=True,
            text=True,
            timeout=TIMEOUT_SECONDS,
            check=False,
        )

    assert done.returncode == 0, done.stdout + done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("command", [command for command in PROGRAMS_RUN if lasting(command) == "worker"])
def test_celerys_worker_has_the_options_that_the_documents_print(command):
    _, options = as_copied(command).split("celery -A worker worker")

    _, left, _ = celery_worker.make_parser(click.Context(celery_worker)).parse_args(shlex.split(options))

    assert left == []


@pytest.mark.parametrize("command", first_of_each(lasting, PROGRAMS_RUN))
def test_a_program_that_the_documents_print_starts_when_it_is_copied_and_ends_at_a_signal(
    installation, command, tmp_path
):
    env = environment(installation, webhook="")
    program = lasting(command)
    is_worker = program == "worker"

    def answers():
        if is_worker:
            return installation.caller.control.ping(timeout=0.5)
        return processes.listens(int(env["FLOWER_PORT"]))

    log = tmp_path / "log"
    with processes.Process("copied", ["bash", "-c", f"exec env {as_copied(command)}"], log, env) as process:
        eventually(lambda: answers() or not process.is_running, what="an answer")

        if program == "flower":
            # Flower waits for ever where the signal interrupts the start of its first thread.
            assert process.is_running
            process.kill()
        else:
            assert process.stop() == 0


@pytest.mark.parametrize("beginning", NOT_RUN)
def test_a_command_that_is_left_out_is_printed_somewhere(beginning):
    assert [command for command, _ in PRINTED if command.startswith(beginning)]


def test_the_targets_of_make_that_are_printed_exist():
    targets = set(re.findall(r"^([a-z]+):", text(processes.ROOT / "Makefile"), re.MULTILINE))
    printed = {shlex.split(command)[1] for command, _ in PRINTED if command.startswith("make ")}

    assert printed - targets == set()


def test_the_benchmarks_that_are_printed_exist():
    prefix = "python -m benchmarks "
    printed = [
        shlex.split(command.removeprefix(prefix)) for command, _ in PRINTED if command.startswith(prefix)
    ]
    known = import_module("benchmarks.__main__").COMMANDS

    for called, *words in printed:
        assert called in known
        command = getattr(import_module(f"benchmarks.{called}"), "COMMAND", None)
        scenarios = {scenario.name for scenario in command.scenarios} if command else set()
        assert {word for word in words if re.fullmatch("[a-z][a-z-]*", word)} <= scenarios
