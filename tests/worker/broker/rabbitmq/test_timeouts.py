"""No wait for RabbitMQ is without a limit. `tests/chaos/test_half_open.py` shows it on a real server."""

import socket
import threading
from contextlib import contextmanager

import pytest
from amqp.exceptions import RecoverableConnectionError

from worker.broker.rabbitmq.timeouts import BoundedConnection, BoundedTCPSocket

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


def test_an_answer_that_does_not_come_ends_the_connection_though_heartbeats_do():
    with connected() as (ours, peer):
        connection = BoundedConnection()
        connection._answer_timeout = 0.2
        connection.transport = ours
        connection.on_inbound_frame = lambda frame: frame[0] != 8
        ended = threading.Event()
        beats = threading.Thread(target=beat, args=(peer, ended))
        beats.start()
        try:
            with pytest.raises(TimeoutError):
                connection.drain_events()
        finally:
            ended.set()
            beats.join()
        assert not ours.connected
        with pytest.raises(RecoverableConnectionError):
            connection.wait((10, 50))


def beat(peer, ended):
    """Send heartbeats until the end."""
    while not ended.wait(0.05):
        try:
            peer.sendall(HEARTBEAT)
        except OSError:
            return
