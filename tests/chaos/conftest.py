"""Faults on purpose, under load: in short in `make test`, in full in `make chaos`."""

from contextlib import ExitStack
from dataclasses import asdict, dataclass

import pytest
from chaos import CONCURRENCY, HASTE, RECORDS, Broker
from full_size import FULL
from load import Load
from stack import Stack

from devstack import processes
from devstack.firehose import FakeFirehose

ROW = "a line of the table of faults"


@dataclass(frozen=True)
class Row:
    """A line of the table at the end."""

    story: str
    faults: str
    sent: int
    lost: int
    repeated: int
    allowed: int
    """Repeats that the guarantees allow for."""


@pytest.fixture
def make_stack(tmp_path):
    """A stack without a worker, over a Redis of its own with these options."""
    with ExitStack() as parts:

        def make(*redis_options, server=None):
            broker = Broker(tmp_path, *redis_options, server=server)
            parts.callback(broker.stop)
            firehose = parts.enter_context(FakeFirehose())
            stack = Stack(tmp_path, broker.url, firehose, databases=(0, 1))
            stack.broker = broker
            stack.configure("main")
            return stack

        yield make


@pytest.fixture
def redis_options():
    """The options of the test's Redis, beside those that every broker needs."""
    return ()


@pytest.fixture
def server():
    """The program of the test's Redis."""
    return processes.redis_server()


@pytest.fixture
def stack(make_stack, redis_options, server):
    return make_stack(*redis_options, server=server)


@pytest.fixture
def start(stack):
    """Start a worker that does not wait long for anything; it ends with the story."""
    with ExitStack() as workers:

        def start(*options, mingles=False, **env):
            options += ("--concurrency", str(CONCURRENCY), *(() if mingles else ("--without-mingle",)))
            worker = workers.enter_context(stack.worker(*options, env=HASTE | env))
            # Stopping well has stories of its own.
            workers.callback(worker.kill)
            return worker

        yield start


@pytest.fixture
def load(stack):
    return Load(stack.audience(), RECORDS)


@pytest.fixture
def tell(request):
    """Put a line into the table, and hold the story to it: nothing lost, no more repeated than is allowed."""

    def tell(load, faults, *, allowed=0):
        row = Row(request.node.name, faults, load.sent, load.lost, load.repeated, allowed)
        # A property of the report, as the test may run in another process than the one that prints.
        request.node.user_properties.append((ROW, asdict(row)))
        assert (row.lost, row.repeated <= allowed) == (0, True), row

    return tell


def pytest_terminal_summary(terminalreporter):
    reports = terminalreporter.getreports("passed") + terminalreporter.getreports("failed")
    rows = [Row(**row) for report in reports for name, row in report.user_properties if name == ROW]
    if not rows:
        return
    terminalreporter.section(f"chaos, {'full' if FULL else 'short'}")
    line = "{:<62} {:<44} {:>7} {:>5} {:>8} {:>8}"
    terminalreporter.line(line.format("story", "faults injected", "sent", "lost", "repeated", "allowed"))
    for row in rows:
        story = row.story.removeprefix("test_").replace("_", " ")
        terminalreporter.line(
            line.format(story[:62], row.faults[:44], row.sent, row.lost, row.repeated, row.allowed)
        )
