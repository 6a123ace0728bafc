"""The CPU time that the dashboard spends on a view of each of its pages.

Between two views an alert is raised and one stream in ten delivers, as in one that lives. The time is that
of all threads of the dashboard, from /proc/PID/task/*/schedstat; a view is a plain HTTP request.
"""

import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from statistics import median
from urllib.request import urlopen

from benchmarks.bench import Bench
from benchmarks.dashboard.installation import Installation
from benchmarks.figures import Figure, Target, at_most
from benchmarks.scenario import Scenario
from devstack import processes
from devstack.ports import free_port

ALERTS = 10_000
LETTERS = 1_000
VIEWS = 15
WARM_UP_VIEWS = 2
IDLE_SECONDS = 0.1
"""After a view the dashboard's threads have ended their work."""
TIMEOUT_SECONDS = 60.0
NANOSECONDS_PER_MILLISECOND = 1e6
STREAM_PAGE = "/streams/firehose.main.us-east-1.stream-00003"

LIMITS: Mapping[int, Mapping[str, Target]] = {
    1_000: {
        "/alerts": at_most(50),
        "/alerts?range=7d&search=throttled": at_most(100),
        "/streams": at_most(50),
        "/streams?sort=queued&page=3": at_most(50),
        STREAM_PAGE: at_most(50),
        "/dead-letters": at_most(50),
        "/broker": at_most(50),
        "/metrics": at_most(100),
    },
    5_000: {
        "/alerts": at_most(50),
        "/alerts?range=7d&search=throttled": at_most(100),
        "/streams": at_most(150),
        "/streams?sort=queued&page=3": at_most(150),
        STREAM_PAGE: at_most(150),
        "/dead-letters": at_most(50),
        "/broker": at_most(150),
        "/metrics": at_most(200),
    },
}
"""By streams and page, milliseconds."""


def measure(streams: int, bench: Bench) -> Iterator[Figure]:
    """Measure the pages of an installation of so many streams."""
    bench.say(f"filling Redis: {streams:,} streams, {ALERTS:,} alerts, {LETTERS:,} dead letters")
    installation = Installation(bench.stack.env, streams)
    installation.fill(alerts=ALERTS, letters=LETTERS)
    port = free_port()
    with tempfile.TemporaryDirectory() as directory:
        log = Path(directory) / "dashboard.log"
        with processes.dashboard(log, bench.stack.env, port) as dashboard:
            for page, target in LIMITS[streams].items():
                url = f"http://{processes.LOOPBACK}:{port}{page}"
                views = list(cpu_milliseconds(dashboard.pid, url, installation.live))
                note = f"{min(views):.0f} to {max(views):.0f} ms in {len(views)} views"
                yield Figure(page, "ms of CPU", median(views), target=target, note=note)


def cpu_milliseconds(pid: int, url: str, live: Callable[[], None]) -> Iterator[float]:
    """Yield the CPU time of the dashboard for each view of a page."""
    for view in range(WARM_UP_VIEWS + VIEWS):
        live()
        time.sleep(IDLE_SECONDS)
        before = _cpu_milliseconds(pid)
        with urlopen(url, timeout=TIMEOUT_SECONDS) as answer:
            answer.read()
        time.sleep(IDLE_SECONDS)
        if view >= WARM_UP_VIEWS:
            yield _cpu_milliseconds(pid) - before


def _cpu_milliseconds(pid: int) -> float:
    """The CPU time of a process's threads since they began."""
    files = Path(f"/proc/{pid}/task").glob("*/schedstat")
    return sum(int(file.read_text("ascii").split()[0]) for file in files) / NANOSECONDS_PER_MILLISECOND


SCENARIOS = [
    Scenario(
        f"pages-{streams}",
        f"the dashboard's CPU for a view of each page, with {streams:,} streams and {ALERTS:,} alerts",
        partial(measure, streams),
    )
    for streams in LIMITS
]
