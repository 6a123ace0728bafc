"""The pictures of the dashboard in README and docs: `make screenshots` takes them anew.

A private Redis holds the state of an installation with troubles, and a worker runs over it.
"""

import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from random import Random

from devstack import processes
from devstack.browser import Page, browser, find_browser
from devstack.firehose import FakeFirehose
from devstack.ports import free_port
from worker.config import read_settings
from worker.failures.alert_types import AlertType, Failure
from worker.failures.alerts import Cause
from worker.failures.dead_lettering import Undeliverable
from worker.failures.dead_letters import Message
from worker.queues import CHANGES_QUEUE, FORWARD, Stream
from worker.services import Services, connect

IMAGES = processes.ROOT / "docs" / "images"
WIDTHS = {"wide": (1280, 800), "narrow": (390, 844)}
"""The size of a screen, and the height to which it is shown."""
CONFIGURATION = "acme"
STREAMS = ("orders", "mPTravelAudiences", "crm-sync", "winback", "newsletter")
MINUTES = 60
WAITING_BATCHES = 12
WAITING_RECORDS = 6_000
OPEN_ALL = "document.querySelectorAll('#alert-groups details').forEach(found => { found.open = true; })"
READY = "document.readyState == 'complete'"
NO_BANNER = "!document.getElementById('no-workers')"
READY_SECONDS = 30.0


def main() -> int:
    """Take the pictures. Returns the exit code."""
    executable = find_browser()
    if executable is None:
        print("there is no Chromium on PATH: apt-get install chromium", file=sys.stderr)
        return 1
    IMAGES.mkdir(exist_ok=True)
    with installation() as (url, streams), browser(executable) as page:
        show(page, f"{url}/streams")
        until(page, NO_BANNER, f"{url}/streams")
        for name, path in paths(streams).items():
            for suffix, (width, height) in WIDTHS.items():
                page.resize(width, height)
                show(page, f"{url}{path}")
                page.evaluate(OPEN_ALL)
                page.screenshot(IMAGES / f"{name}-{suffix}.png", height)
    return 0


def paths(streams: Mapping[str, Stream]) -> dict[str, str]:
    """The path of each picture's page, by the picture's name."""
    return {
        "alerts": "/alerts?search=orders",
        "streams": "/streams",
        "stream": f"/streams/{streams['orders'].queue}",
        "dead-letters": "/dead-letters",
        "broker": "/broker",
    }


@contextmanager
def installation() -> Iterator[tuple[str, Mapping[str, Stream]]]:
    """The URL of a dashboard over an eventful installation, and its streams by name."""
    with tempfile.TemporaryDirectory(prefix="audience-firehose-") as name, FakeFirehose() as firehose:
        directory, port = Path(name), free_port()
        with processes.redis(directory) as (_, redis):
            env = {
                "CELERY_BROKER_URL": f"{redis}/0",
                "AUDIENCE_REDIS_URL": f"{redis}/1",
                "AUDIENCE_ENVIRONMENT": "staging",
                "AWS_ENDPOINT_URL_FIREHOSE": firehose.url,
            }
            streams = fill(env)
            with (
                processes.dashboard(directory / "dashboard.log", env, port),
                processes.worker(directory / "worker.log", env) as worker,
            ):
                processes.wait_for_worker(worker)
                yield f"http://{processes.LOOPBACK}:{port}", streams


def fill(env: Mapping[str, str]) -> dict[str, Stream]:
    """Make the state of an installation with troubles. Returns its streams by name."""
    services = connect(read_settings(env))
    services.registry.configure(name=CONFIGURATION)
    streams = {name: Stream(CONFIGURATION, "us-east-1", name) for name in STREAMS}
    for audience, name in enumerate(STREAMS, 1):
        services.registry.connect(
            audience_id=audience, configuration=CONFIGURATION, delivery_stream_name=name
        )
    chance = Random(1)
    for stream in streams.values():
        _deliver(services, stream, chance)
    orders, travel, crm, *_ = streams.values()
    services.circuit_breakers.pause(orders, AlertType.ACCESS_DENIED)
    services.circuit_breakers.record_failure(crm, AlertType.INTERNAL_SERVER_ERROR, first=600, longest=600)
    _fail(services, orders, 1, Failure(AlertType.ACCESS_DENIED, "AccessDeniedException", "attach the policy"))
    spent = Failure(AlertType.RETRY_LIMIT_EXCEEDED, "ServiceUnavailableException", "throttled for four hours")
    for _ in range(5):
        _fail(services, travel, 2, spent)
    _refuse_changes(services)
    _wait(services, env, orders)
    return streams


def _deliver(services: Services, stream: Stream, chance: Random) -> None:
    """An hour of deliveries."""
    now = services.clock()
    accepted = refusals = 0
    for minute in range(MINUTES):
        services.history._clock = lambda at=now - MINUTES * (MINUTES - 1 - minute): at  # type: ignore[misc]
        delivered, refused = chance.randint(20_000, 90_000), chance.choice((0, 0, 0, 500))
        accepted, refusals = accepted + delivered, refusals + refused
        services.history.record(
            stream,
            services.redis,
            delivered=delivered,
            refused=refused,
            size=10_000_000,
            seconds=chance.choice((0.04, 0.2, 0.2, 1.0)),
        )
    services.counters.enqueued(stream, accepted + WAITING_RECORDS)
    services.counters.delivered(stream, accepted=accepted, refused=refusals)


def _fail(services: Services, stream: Stream, audience: int, failure: Failure) -> None:
    """A batch becomes a dead letter."""
    services.dead_lettering.dead_letter(
        Undeliverable(
            f"{time.monotonic_ns():x}",
            Message(stream.task, stream.queue, {"records": []}),
            failure._replace(request_id="d2ab5f0c-8a1f-4b6c-9d3e-1f60a7b2c9e4"),
            records=500,
            stream=stream,
            connection_ids=services.registry.snapshot().connections_to(stream),
            audience_ids=[audience],
            attempts=24,
        )
    )


def _refuse_changes(services: Services) -> None:
    """A caller sends changes that are invalid."""
    problem = "1 of 1 invalid, at 0: position 0: user_identities: unknown identity"
    services.dead_lettering.dead_letter(
        Undeliverable(
            "invalid",
            Message(FORWARD, CHANGES_QUEUE, {"changes": [{}]}),
            Failure(AlertType.INVALID_CHANGE, "ValidationError", problem),
            records=1,
            audience_ids=[4],
            cause=Cause(FORWARD, "5e8f2a90", "gen71@checkout-7c9d"),
        )
    )


def _wait(services: Services, env: Mapping[str, str], stream: Stream) -> None:
    """Batches wait in the queue of a paused stream."""
    broker = type(services.redis).from_url(env["CELERY_BROKER_URL"])
    enqueued_at = services.clock() - 754
    for _ in range(WAITING_BATCHES):
        broker.lpush(stream.queue, f'{{"headers": {{"enqueued_at": {enqueued_at}}}}}')


def show(page: Page, url: str) -> None:
    """Open a page and wait for its scripts."""
    page.evaluate("window.isOld = true")
    page.call("Page.navigate", url=url)
    until(page, f"!window.isOld && {READY}", url)


def until(page: Page, condition: str, what: str) -> None:
    """Wait until a condition of the page is true. Raises `TimeoutError`."""
    deadline = time.monotonic() + READY_SECONDS
    while not page.holds(condition):
        if time.monotonic() > deadline:
            raise TimeoutError(f"{what}: {condition}")
        time.sleep(processes.POLL_INTERVAL_SECONDS)


if __name__ == "__main__":
    sys.exit(main())
