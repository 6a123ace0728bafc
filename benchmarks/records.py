"""The cost of a record, step by step, in one process: `python -m benchmarks.records`.

CPU time of the steps that the records of a full message go through, from the JSON of the changes to
Firehose's answer, and of a bare boto3 call with the same records. Celery, Redis and the local Firehose, which
is another process, are not in it. Each figure is the least of many runs, in µs a record, so that a busy
machine disturbs it little.
"""

import argparse
import os
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import boto3

from benchmarks.changes import AUDIENCE, BATCH, change
from devstack import processes
from devstack.ports import free_port
from schemas.changes import ChangeSchema, as_changes
from schemas.identities import Catalogue
from schemas.quotas import Quota
from schemas.records import Stamp
from schemas.settings import Configuration, Connection
from tasks.fan_out import Part, fan_out
from worker.broker.serialization import dumps, loads
from worker.firehose.clients import Clients
from worker.firehose.deliveries import is_delivery, make_delivery
from worker.firehose.groups import firehose_records
from worker.firehose.put import put
from worker.queues import Stream
from worker.state.registry import Route, Snapshot

STREAM = Stream("benchmark", "us-east-1", "benchmark")
CONFIGURATION = Configuration(STREAM.configuration)
AMPLE = Quota(requests=10**9, records=10**9, bytes=10**12)
STAMP = Stamp("00000000-0000-4000-8000-000000000000", 1)
CREDENTIALS = {"AWS_ACCESS_KEY_ID": "benchmark", "AWS_SECRET_ACCESS_KEY": "benchmark"}


class Steps:
    """The CPU time of each step, run by run."""

    def __init__(self) -> None:
        self._runs: defaultdict[str, list[int]] = defaultdict(list)

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        """Measure a step over one message."""
        before = time.process_time_ns()
        yield
        self._runs[name].append(time.process_time_ns() - before)

    def microseconds_a_record(self) -> dict[str, float]:
        """The least of each step's runs."""
        return {name: min(runs) / 1_000 / BATCH for name, runs in self._runs.items()}


class Pipeline:
    """The work of workers on a message of changes, without Celery and Redis."""

    def __init__(self, steps: Steps, **settings: Any) -> None:
        connection = Connection(AUDIENCE, STREAM.configuration, STREAM.name, STREAM.region, **settings)
        catalogue = Catalogue()
        route = Route(
            "benchmark", STREAM, connection.projection(CONFIGURATION, catalogue), connection.aggregate_records
        )
        self._snapshot = Snapshot(
            version="1",
            configurations={},
            connections={},
            routes={AUDIENCE: (route,)},
            streams=frozenset([STREAM]),
            corrupt=frozenset(),
            quotas={STREAM: AMPLE},
            region_quotas={},
        )
        self._steps = steps
        self._names = catalogue.names_by_precedence
        self._schema = ChangeSchema(catalogue)
        self._clients = Clients(cipher=_NoCipher(), read_timeout=60)

    def produce(self, message: str) -> list[str]:
        """The delivery messages of a message of changes."""
        step = self._steps.step
        with step("read the changes' JSON"):
            content = loads(message)
        with step("check"):
            changes = as_changes(content)
            assert changes
            assert self._schema.are_valid(changes)
        with step("fan out: users, records, batches"):
            streams, _ = fan_out([Part(changes, STAMP)], self._snapshot, self._names)
            found = streams[STREAM]
            chains = list(found.batches)
        with step("write the delivery's JSON"):
            return [dumps(make_delivery(STREAM, chain, found.connection_ids)) for chain in chains]

    def deliver(self, message: str) -> list[str]:
        """Deliver a delivery message. Returns its Firehose records."""
        step = self._steps.step
        with step("read the delivery's JSON"):
            kwargs = loads(message)
        with step("check the delivery"):
            assert is_delivery(kwargs)
        with step("PutRecordBatch"):
            outcome = put(self._clients.get(CONFIGURATION, STREAM.region), STREAM.name, kwargs["records"])
        assert outcome.failure is None
        return firehose_records(kwargs["records"])


class _NoCipher:
    def decrypt(self, token: str) -> str:
        raise AssertionError("the configuration has no secret")


def measure(runs: int, **settings: Any) -> dict[str, float]:
    """µs a record of each step, and of a bare boto3 call under the name `bare boto3`."""
    steps, bare = Steps(), Steps()
    pipeline = Pipeline(steps, **settings)
    client = boto3.client("firehose", region_name=STREAM.region)
    message = dumps({"changes": [change(number) for number in range(BATCH)]})
    records: Any = [
        {"Data": record.encode()} for text in pipeline.produce(message) for record in pipeline.deliver(text)
    ]
    for _ in range(runs):
        for text in pipeline.produce(message):
            pipeline.deliver(text)
        with bare.step("bare boto3"):
            client.put_record_batch(DeliveryStreamName=STREAM.name, Records=records)
    return steps.microseconds_a_record() | bare.microseconds_a_record()


def table(figures: dict[str, float]) -> list[str]:
    """The figures, their sum, and how it compares with bare boto3."""
    bare = figures["bare boto3"]
    total = sum(figures.values()) - bare
    rows = {**figures, "all but bare boto3": total}
    return [
        *(f"{name:34} {cost:6.2f}" for name, cost in rows.items()),
        f"{'share of bare boto3':34} {bare / total:6.2f}",
    ]


def main(given: list[str]) -> None:
    """Measure against a local Firehose that only counts."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.records", description=__doc__)
    parser.add_argument(
        "--runs", type=int, default=100, help="messages of 500 changes (default: %(default)s)"
    )
    parser.add_argument("--include-metadata", action="store_true")
    parser.add_argument("--aggregate-records", action="store_true")
    settings = vars(parser.parse_args(given))
    port = free_port()
    command = [sys.executable, "-m", "devstack.firehose", str(port)]
    with (
        tempfile.TemporaryDirectory() as directory,
        processes.Process("firehose", command, Path(directory) / "firehose.log", {}) as firehose,
    ):
        firehose.wait_until(lambda: processes.listens(port))
        os.environ.update(processes.PRIVATE | CREDENTIALS)
        os.environ["AWS_ENDPOINT_URL_FIREHOSE"] = f"http://{processes.LOOPBACK}:{port}"
        print(*table(measure(settings.pop("runs"), **settings)), sep="\n")


if __name__ == "__main__":
    main(sys.argv[1:])
