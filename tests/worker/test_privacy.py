"""What holds identity values shows them to no log, debugger or error tracker."""

import pytest

from schemas.records import Rendered
from worker.broker.outbox import Entry
from worker.broker.rabbitmq.reservations import Frames
from worker.broker.rabbitmq.runs import Delivery
from worker.broker.redis.poll import Answer, Reservation
from worker.broker.runs import HandOver
from worker.firehose.put import Outcome


@pytest.mark.parametrize(
    "value",
    [
        HandOver("run", {"tag": b"key"}, [], [("queue", "secretive")], "{}"),
        Reservation("queue", "secretive", ["tag"], True),
        Answer(1, [], [], Reservation("queue", "secretive", ["tag"], True)),
        Entry([("queue", "secretive")], "{}", [b"key"]),
        Frames(b"secretive", b"secretive"),
        Delivery(1, b"", b"secretive", b"secretive"),
        Outcome(0, 1, ["secretive"], None),
        Rendered((b"secretive",), ()),
    ],
    ids=lambda value: type(value).__name__,
)
def test_no_repr_of_a_message_has_its_content(value):
    assert "secretive" not in repr(value)
