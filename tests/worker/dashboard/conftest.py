"""A real dashboard over a real Redis, and what it is asked over HTTP."""

import http.client
import os
from base64 import b64encode
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlencode

import pytest
from fakeredis import FakeRedis
from warm_start import warm_start

from devstack import processes
from devstack.ports import free_port
from schemas.records import Skip
from worker.config import read_settings
from worker.failures.alert_types import AlertType, Failure
from worker.queues import Stream
from worker.services import Services, connect

NOW = 1_700_000_000.0
SPITEFUL_NAME = "<script>document.title = 'spite'</script>"


class Answer(NamedTuple):
    status: int
    body: str
    headers: Mapping[str, str]

    @property
    def location(self) -> str | None:
        return self.headers.get("Location")

    @property
    def cookie(self) -> str:
        """The cookie that the answer sets."""
        return self.headers.get("Set-Cookie", "").partition(";")[0]


@dataclass
class Site:
    """A running web server of this machine."""

    process: processes.Process
    port: int

    @property
    def url(self) -> str:
        return f"http://{processes.LOOPBACK}:{self.port}"

    def get(self, path: str, credentials: str | None = None) -> Answer:
        """Ask for a page. Redirections are not followed."""
        return self._request("GET", path, credentials)

    def post(
        self, path: str, form: Mapping[str, str], credentials: str | None = None, cookie: str = ""
    ) -> Answer:
        """Send a form."""
        headers = {"Content-Type": "application/x-www-form-urlencoded", "Cookie": cookie}
        return self._request("POST", path, credentials, urlencode(form), headers)

    def _request(
        self,
        method: str,
        path: str,
        credentials: str | None,
        body: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Answer:
        headers = dict(headers or {})
        if credentials:
            headers["Authorization"] = f"Basic {b64encode(credentials.encode()).decode()}"
        connection = http.client.HTTPConnection(processes.LOOPBACK, self.port, timeout=60)
        try:
            connection.request(method, path, body, headers)
            response = connection.getresponse()
            return Answer(response.status, response.read().decode(), dict(response.getheaders()))
        finally:
            connection.close()


@dataclass
class Place:
    """A private Redis, with a broker and a state in it, and a directory for what processes write."""

    directory: Path
    redis_url: str
    logs: Counter[str] = field(default_factory=Counter)

    @property
    def environment(self) -> dict[str, str]:
        return {
            "CELERY_BROKER_URL": f"{self.redis_url}/0",
            "AUDIENCE_REDIS_URL": f"{self.redis_url}/1",
            "FLOWER_UNAUTHENTICATED_API": "true",
        }

    def log(self, name: str) -> Path:
        self.logs[name] += 1
        return self.directory / f"{name}-{self.logs[name]}.log"

    @contextmanager
    def dashboard(self, env: Mapping[str, str] | None = None) -> Iterator[Site]:
        port = free_port()
        environment = self.environment | dict(env or {})
        with processes.dashboard(self.log("dashboard"), environment, port, warm_start) as process:
            yield Site(process, port)

    @contextmanager
    def flower(self) -> Iterator[Site]:
        port = free_port()
        command = [
            processes.BIN / "celery",
            "-A",
            "worker",
            "flower",
            "--address=127.0.0.1",
            f"--port={port}",
        ]
        log = self.log("flower")
        with processes.Process("flower", command, log, self.environment, warm_start) as process:
            yield Site(process.wait_until(lambda: processes.listens(port)), port)


@pytest.fixture
def services():
    """An empty state. The time is NOW."""
    return Services(FakeRedis(decode_responses=True), read_settings({}), clock=lambda: NOW)


@pytest.fixture(scope="session")
def place(tmp_path_factory):
    directory = tmp_path_factory.mktemp("dashboard")
    with processes.redis(directory) as (_, url):
        yield Place(directory, url)


@pytest.fixture(scope="session")
def eventful(place):
    """The state of the real dashboard: a stream of each state, and somebody is spiteful."""
    services = connect(read_settings(place.environment))
    services.registry.configure(name="main")
    names = ("flowing", "paused", "failing", "tried")
    for audience, name in enumerate(names, 1):
        services.registry.connect(audience_id=audience, configuration="main", delivery_stream_name=name)
    flowing, paused, failing, tried = (Stream("main", "us-east-1", name) for name in names)
    disconnected = Stream("main", "us-east-1", "disconnected")
    spiteful = Stream("main", "us-east-1", SPITEFUL_NAME)
    services.counters.enqueued(disconnected, 3)
    services.circuit_breakers.record_failure(failing, AlertType.INTERNAL_SERVER_ERROR, first=600, longest=600)
    services.circuit_breakers.record_failure(tried, AlertType.INTERNAL_SERVER_ERROR, first=0, longest=0)
    services.counters.delivered(flowing, accepted=1234, refused=5)
    services.counters.skipped({(flowing, Skip.ANONYMOUS): 7, (None, Skip.NO_CONNECTION): 40})
    services.skipped_audiences.record({(777, Skip.NO_CONNECTION): 40})
    services.circuit_breakers.pause(paused, AlertType.STREAM_NOT_FOUND)
    gone = Failure(AlertType.STREAM_NOT_FOUND, "ResourceNotFoundException", "there is no such stream")
    (connection,) = services.registry.snapshot().connections_to(paused)
    services.alerts.raise_alert(
        gone, stream=paused, connection_ids=[connection], audience_ids=[2], records=500
    )
    services.alerts.raise_alert(Failure(AlertType.ACCESS_DENIED, "AccessDenied", "no"), stream=spiteful)
    return services


@pytest.fixture(scope="session")
def spiteful_name():
    """A stream's name as somebody typed it."""
    return SPITEFUL_NAME


@pytest.fixture(scope="session")
def dashboard(place, eventful):
    with place.dashboard() as site:
        yield site


@pytest.fixture(scope="session")
def flower(place):
    with place.flower() as site:
        yield site


@pytest.fixture(scope="session")
def talkative_worker(place):
    """Another app's worker on the same broker, which hides nothing. Consumes the queue `talk`."""
    env = {**place.environment, "PYTHONPATH": os.fspath(Path(__file__).parent)}
    options = ("-Q", "talk", "-P", "solo")
    with processes.worker(
        place.log("talkative"), env, *options, name="talkative", app="talkative"
    ) as process:
        yield processes.wait_for_worker(process)
