"""Messages are published together, and a queue that RabbitMQ does not serve holds up none of the others."""

import pytest
from kombu.exceptions import OperationalError

from worker.broker.rabbitmq.publishing import LEFT_OUT_SECONDS, Publisher


class RabbitMQ:
    """Client, connection and channel in one. It confirms in turn, until it fails over a queue."""

    connection_errors = (OSError,)
    channel_errors = ()

    def __init__(self):
        self.unserved = set()
        self.error = TimeoutError
        """Of a publication for such a queue."""
        self.tries = []
        """The queues of each try."""
        self.connection = self.publications = self

    def ensure_connection(self, **_):
        return self

    def collect(self):
        pass

    def publish(self, messages):
        self.tries.append([queue for queue, _ in messages.values()])
        for key, (queue, _) in list(messages.items()):
            if queue in self.unserved:
                raise self.error
            del messages[key]


@pytest.fixture
def rabbitmq():
    return RabbitMQ()


@pytest.fixture
def publisher(clock):
    return Publisher(clock)


def messages(*queues):
    return {number: (queue, f"message {number}") for number, queue in enumerate(queues)}


def publish_in_vain(publisher, rabbitmq, *queues):
    """The queues of the messages that are left."""
    left = messages(*queues)
    with pytest.raises(OperationalError):
        publisher.publish(rabbitmq, left)
    return [queue for queue, _ in left.values()]


def test_a_queue_that_does_not_answer_is_waited_for_once_in_a_while(publisher, rabbitmq, clock):
    rabbitmq.unserved = {"a"}
    assert publish_in_vain(publisher, rabbitmq, "a") == ["a"]
    assert rabbitmq.tries == [["a"], ["a"]]
    assert publish_in_vain(publisher, rabbitmq, "a") == ["a"]
    assert rabbitmq.tries == [["a"], ["a"]]
    clock.advance(LEFT_OUT_SECONDS)
    rabbitmq.unserved.clear()
    left = messages("a")
    publisher.publish(rabbitmq, left)
    assert not left


def test_a_queue_that_does_not_answer_holds_up_no_other_queue(publisher, rabbitmq):
    rabbitmq.unserved = {"a"}
    left = publish_in_vain(publisher, rabbitmq, "b", "c", "a", "d", "a")
    assert rabbitmq.tries == [["b", "c", "a", "d", "a"], ["a", "a"]]
    assert sorted(left) == ["a", "a", "d"]
    assert publish_in_vain(publisher, rabbitmq, *left) == ["a", "a"]
    assert rabbitmq.tries[2:] == [["d"]]


def test_a_queue_whose_connection_is_lost_is_not_left_out(publisher, rabbitmq):
    rabbitmq.unserved, rabbitmq.error = {"a"}, ConnectionResetError
    for _ in range(2):
        publish_in_vain(publisher, rabbitmq, "a")
    assert rabbitmq.tries == [["a"]] * 4


def test_a_connection_that_is_half_open_leaves_nothing_out(publisher, rabbitmq, monkeypatch):
    publish = rabbitmq.publish

    def hang(_):
        monkeypatch.setattr(rabbitmq, "publish", publish)
        raise TimeoutError

    monkeypatch.setattr(rabbitmq, "publish", hang)
    for _ in range(2):
        publisher.publish(rabbitmq, messages("a", "b"))
    assert rabbitmq.tries == [["a"], ["b"], ["a", "b"]]
