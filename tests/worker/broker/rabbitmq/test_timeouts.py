"""No wait for RabbitMQ is without a limit. `tests/chaos/test_half_open.py` shows it on a real server."""

import socket
from contextlib import contextmanager

import pytest
from amqp.exceptions import RecoverableConnectionError

from worker.broker.rabbitmq.timeouts import (
    ANSWER_TIMEOUT_SECONDS,
    SHORTEST_READ_SECONDS,
    BoundedConnection,
    BoundedTCPSocket,
)

HEARTBEAT = b"\x08\x00\x00\x00\x00\x00\x00\xce"
PART_OF_A_FRAME = b"\x01\x00\x01\x00\x00\x00\x10abc"


@contextmanager
def connected():
    """A socket of ours, and its peer."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        ours = BoundedTCPSocket(f"127.0.0.1:{listener.getsockname()[1]}", connect_timeout=5)
        ours.connect()
        peer, _ = listener.accept()
        with peer:
            yield ours, peer
        ours.close()


def test_a_frame_that_has_come_in_part_ends_a_read_that_does_not_wait_and_is_kept():
    with connected() as (ours, peer):
        peer.sendall(PART_OF_A_FRAME)
        with ours.having_timeout(1), pytest.raises(TimeoutError):
            ours.read_frame()
        with ours.having_timeout(0), pytest.raises(TimeoutError):
            ours.read_frame()
        peer.sendall(b"d" * 13 + b"\xce")
        with ours.having_timeout(5):
            assert ours.read_frame() == (1, 1, b"abc" + b"d" * 13)


def test_an_answer_that_does_not_come_ends_the_connection_though_heartbeats_do(clock, monkeypatch):
    with connected() as (ours, peer):
        connection = BoundedConnection()
        connection.monotonic = clock
        connection.transport = ours
        waits, read = [], connection.blocking_read
        monkeypatch.setattr(connection, "blocking_read", lambda wait: waits.append(wait) or read(wait))

        def beat(frame):
            clock.advance(ANSWER_TIMEOUT_SECONDS / 2)
            return frame[0] != 8

        connection.on_inbound_frame = beat
        peer.sendall(2 * HEARTBEAT)
        with pytest.raises(TimeoutError):
            connection.drain_events()
        assert waits == [ANSWER_TIMEOUT_SECONDS, ANSWER_TIMEOUT_SECONDS / 2, SHORTEST_READ_SECONDS]
        assert not ours.connected
        with pytest.raises(RecoverableConnectionError):
            connection.wait((10, 50))
