"""Firehose is away for a while, in every way it can be. Delivery goes on by itself."""

import threading
from contextlib import contextmanager
from http.server import ThreadingHTTPServer

import pytest
from chaos import ONE_BY_ONE, PATIENT, RECORDS
from full_size import FULL
from load import Load
from waiting import eventually

from devstack.firehose import Answer, error, fail
from devstack.ports import free_port
from worker.flow.worker_troubles import LASTS_AFTER_TROUBLES

FAILED_CALLS = 60 if FULL else 5
"""How long an outage lasts. One batch tries a failing stream, then the next one does."""

OUTAGES = {
    "500": error("InternalFailure", 500),
    "throttling": error("ThrottlingException", 400),
    "expired role credentials": error("ExpiredTokenException", 400),
    "500 after the write": Answer(500, {"__type": "InternalFailure"}, after=True),
}


@pytest.mark.parametrize("outage", OUTAGES)
def test_an_outage_of_firehose_loses_nothing_and_raises_one_warning(stack, start, tell, outage):
    load = Load(stack.audience(), RECORDS // len(OUTAGES))
    written = OUTAGES[outage].after
    failures = FAILED_CALLS // 5 if written else FAILED_CALLS
    stack.firehose.faults.append(fail(OUTAGES[outage], times=failures))
    start(**PATIENT, **ONE_BY_ONE)
    load.send()
    load.arrive()
    status = load.settle()
    tell(load, f"{failures} x {outage}", allowed=failures * load.per_message if written else 0)
    warnings = [alert.severity for alert in stack.services.alerts.all()]
    # A batch that fails twice and not thrice is no news.
    assert warnings in ([], ["warning"]) if written else warnings == ["warning"]
    assert (status.counts.enqueued, status.counts.delivered, status.dead) == (load.records, load.records, 0)
    assert status.counts.retrying == 0


def test_nothing_is_lost_or_repeated_while_firehose_refuses_connections(stack, start, tell):
    """No worker can reach it: each one pauses, and the stream's circuit breaker opens."""
    load = Load(stack.audience(), RECORDS // len(OUTAGES))
    relay = Relay(stack.firehose)
    start(AWS_ENDPOINT_URL_FIREHOSE=relay.url, **PATIENT)
    load.send()
    queue = load.audience.stream.queue
    breaker = eventually(lambda: stack.services.circuit_breakers.all().get(queue))
    assert breaker.reason == "Worker Trouble"
    assert not load.arrived()
    with relay.open():
        load.arrive()
        status = load.settle()
    tell(load, f"{LASTS_AFTER_TROUBLES} x connection refused")
    (alert,) = stack.services.alerts.all()
    assert (alert.type, alert.error_code) == ("Worker Trouble", "EndpointConnectionError")
    assert relay.url in alert.message
    assert (status.counts.enqueued, status.counts.delivered, status.dead) == (load.records, load.records, 0)
    assert stack.services.circuit_breakers.get(load.audience.stream) is None


def test_a_call_that_firehose_accepts_without_answering_is_repeated_and_nothing_is_lost(stack, start, tell):
    load = Load(stack.audience(), RECORDS // len(OUTAGES))
    stack.firehose.faults.append(fail(Answer(wait=threading.Event()), times=FAILED_CALLS))
    # A timeout of one second, in which nobody is to be taken for dead.
    start(AUDIENCE_FIREHOSE_TIMEOUT="1", AUDIENCE_VISIBILITY_TIMEOUT="10", **ONE_BY_ONE)
    load.send()
    load.arrive()
    status = load.settle()
    tell(load, f"{FAILED_CALLS} timeouts after the write", allowed=FAILED_CALLS * load.per_message)
    assert [alert.error_code for alert in stack.services.alerts.all()] == ["ReadTimeoutError"]
    assert (status.counts.enqueued, status.counts.delivered, status.dead) == (load.records, load.records, 0)


class Relay:
    """A second address of a Firehose, at which nobody listens until it is opened."""

    def __init__(self, firehose):
        self.firehose, self.port = firehose, free_port()
        self.url = f"http://127.0.0.1:{self.port}"

    @contextmanager
    def open(self):
        server = ThreadingHTTPServer(("127.0.0.1", self.port), self.firehose._server.RequestHandlerClass)
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        yield
        server.shutdown()
        server.server_close()
