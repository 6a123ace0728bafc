"""Channels of RabbitMQ, and the transport that makes them. Servers of their own have the end-to-end tests."""

import amqp
import pytest
from kombu.transport import resolve_transport

from worker.broker.rabbitmq.channel import Channel
from worker.broker.rabbitmq.transport import Connection, register_rabbitmq_transport


@pytest.mark.parametrize("scheme", ["amqp", "amqps", "pyamqp"])
def test_it_is_registered_as_the_transport_for_rabbitmq(scheme):
    register_rabbitmq_transport()
    assert resolve_transport(scheme).Connection is Connection


@pytest.fixture
def publications(monkeypatch):
    """What a channel publishes, and whether it waits for the confirmation."""
    found = []
    monkeypatch.setattr(amqp.Channel, "basic_publish", lambda *_, **__: found.append("written"))
    monkeypatch.setattr(amqp.Channel, "basic_publish_confirm", lambda *_, **__: found.append("confirmed"))
    return found


@pytest.mark.parametrize(
    ("headers", "delivery_mode", "ends"),
    [
        ({"hostname": "worker1"}, 1, "written"),
        ({"task": "audience.forward"}, 1, "confirmed"),
        ({"task": "audience.forward"}, 2, "confirmed"),
        ({}, 2, "confirmed"),
    ],
)
def test_only_events_and_remote_control_are_not_waited_for(publications, headers, delivery_mode, ends):
    message = amqp.Message(b"", application_headers=headers, delivery_mode=delivery_mode)
    Channel.basic_publish_confirm(Channel.__new__(Channel), message, "", "somewhere")
    assert publications == [ends]
