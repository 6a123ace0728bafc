"""A worker that cannot deliver leaves its batches to another one, over real workers."""

from contextlib import ExitStack

import pytest
from chaos import in_full
from stack import until_idle
from waiting import eventually

from devstack.ports import free_port

CHANGES = 50

NO_KEY = "no secret key"
TROUBLES = {
    NO_KEY: ({"AUDIENCE_SECRET_KEY": ""}, "SecretKeyError"),
    "an endpoint that is no URL": ({"AWS_ENDPOINT_URL_FIREHOSE": "localhost:4566"}, "EndpointError"),
    "an endpoint where nobody listens": (
        {"AWS_ENDPOINT_URL_FIREHOSE": f"http://127.0.0.1:{free_port()}"},
        "EndpointConnectionError",
    ),
}


@pytest.mark.parametrize(
    ("broker", "trouble"),
    [
        *(("redis", trouble) for trouble in TROUBLES),
        ("rabbitmq", NO_KEY),
        *in_full(*(("rabbitmq", trouble) for trouble in TROUBLES if trouble != NO_KEY)),
    ],
    indirect=["broker"],
)
def test_the_other_worker_delivers_everything_and_the_alert_names_the_one_in_trouble(idle_stack, trouble):
    settings, code = TROUBLES[trouble]
    audience, services = idle_stack.audience(), idle_stack.services
    customers = [f"customer-{number}" for number in range(2 * CHANGES)]
    with ExitStack() as workers:
        workers.enter_context(idle_stack.worker("--concurrency", "2", "--without-mingle", env=settings))
        for customer in customers[:CHANGES]:
            idle_stack.send(*audience.added(customer))
        # Alone, it has met its trouble again and again once the breaker of the stream opens.
        eventually(lambda: services.circuit_breakers.get(audience.stream))
        assert not audience.received()

        workers.enter_context(idle_stack.worker("--concurrency", "2", "--without-mingle"))
        for customer in customers[CHANGES:]:
            idle_stack.send(*audience.added(customer))
        until_idle(idle_stack, lambda: len(audience.received()) >= len(customers))
        eventually(lambda: services.circuit_breakers.get(audience.stream) is None)

    assert sorted(audience.customers()) == sorted(customers)
    assert not services.dead_letters.all()
    (alert,) = services.alerts.all()
    assert (alert.type, alert.severity, alert.error_code) == ("Worker Trouble", "warning", code)
    assert alert.message.startswith("worker0@")
    counts = services.counters.of(audience.stream)
    assert (counts.delivered, counts.refused, counts.retrying) == (len(customers), 0, 0)
