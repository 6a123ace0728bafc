"""A trouble of the moment or of one worker: nothing becomes a dead letter, and no stream is paused."""

from contextlib import contextmanager

import pytest
from chaos import PATIENT, RECORDS
from instance_metadata import instance_metadata
from load import Load
from slow_clock import ENVIRONMENT as SLOW_CLOCK
from tls import Certificate, TlsServer, answer_plainly, close, send_alert, serving
from waiting import eventually

from devstack.firehose import refuse_old_signatures

BROKEN_HANDSHAKES = 3
METADATA_FAULTS = {
    # botocore asks up to twelve times for credentials, and then has none.
    "broken": {"failures": 13},
    "slow": {"held": 1},
}


@pytest.fixture
def load(stack):
    return Load(stack.audience(), RECORDS // 3)


@pytest.fixture
def is_well(stack, load):
    """Whether everything was delivered, nothing is a dead letter, and the stream flows."""

    def check():
        counts = load.settle().counts
        assert (counts.enqueued, counts.delivered, counts.refused) == (load.sent, load.sent, 0)
        assert not stack.services.dead_letters.all()
        assert not [alert for alert in stack.services.alerts.all() if alert.severity == "fatal"]
        return eventually(lambda: not stack.services.circuit_breakers.all())

    return check


@pytest.fixture
def tls_worker(stack, start, tmp_path):
    """The server through which a worker, which trusts its certificate, reaches Firehose. It breaks off."""

    @contextmanager
    def begin(broken_by):
        certificate = Certificate(tmp_path)
        server = TlsServer(stack.firehose._server.RequestHandlerClass, certificate.context())
        server.broken_by = broken_by
        with serving(server):
            start(AWS_ENDPOINT_URL_FIREHOSE=server.url, AWS_CA_BUNDLE=str(certificate.bundle), **PATIENT)
            yield server

    return begin


@pytest.mark.parametrize("broken_by", [close, send_alert, answer_plainly], ids=lambda how: how.__name__)
def test_tls_handshakes_are_broken_off(tls_worker, load, tell, is_well, broken_by):
    with tls_worker(broken_by) as server:
        load.send()
        eventually(lambda: server.broken >= BROKEN_HANDSHAKES)
        assert not load.arrived()
        server.broken_by = None
        load.arrive()
        assert is_well()
    tell(load, f"{BROKEN_HANDSHAKES} handshakes broken off ({broken_by.__name__})")


@pytest.mark.parametrize("fault", METADATA_FAULTS)
def test_instance_metadata_fails_as_a_worker_starts(stack, start, tell, fault):
    stack.services.registry.configure(name="instance")
    load = Load(stack.audience(configuration="instance"), RECORDS // 3)
    with instance_metadata(**METADATA_FAULTS[fault]) as metadata:
        start(**PATIENT, **metadata.environment)
        load.send()
        load.arrive()
        counts = load.settle().counts
        assert metadata.requests > sum(METADATA_FAULTS[fault].values())
    tell(load, f"instance metadata is {fault}")
    assert (counts.delivered, counts.refused) == (load.sent, 0)
    assert not stack.services.dead_letters.all()
    assert not stack.services.alerts.all()
    assert not stack.services.circuit_breakers.all()


def test_the_clock_of_one_worker_is_ten_minutes_slow(stack, start, load, tell, is_well):
    stack.firehose.faults.append(refuse_old_signatures)
    start("--include", "slow_clock", **SLOW_CLOCK, **PATIENT)
    load.send(load.records // 2)
    (alert,) = eventually(stack.services.alerts.all)
    assert not load.arrived()
    start(**PATIENT)
    load.send()
    load.arrive()
    assert is_well()
    tell(load, "a clock that is 10 minutes slow, of 1 of 2 workers")
    assert (alert.type, alert.error_code) == ("Worker Trouble", "InvalidSignatureException")
    assert alert.message.startswith("worker0@")
    assert "clock differs by 10 minutes: it is behind" in alert.message
    assert [other.id for other in stack.services.alerts.all()] == [alert.id]
