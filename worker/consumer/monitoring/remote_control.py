"""Remote control (`inspect`, Flower) over RabbitMQ, which comes back with each connection.

A worker's mailbox is a queue that RabbitMQ reserves for the connection that has declared it. Until RabbitMQ
gives up a half-open connection, perhaps later than the worker, it refuses the queue to the worker's next
connection, and Celery would end the worker.
"""

from typing import Any
from uuid import uuid4

from celery.app import control
from kombu import Queue, pidbox

from worker.broker.client import is_rabbitmq


class Mailbox(pidbox.Mailbox):  # type: ignore[misc]
    """Names a worker's queue anew for each connection, where RabbitMQ is the broker.

    Commands reach every queue that is bound to the mailbox's exchange, whatever its name. Redis reserves no
    queue, and would keep the names of workers that were killed.
    """

    is_named_anew = False

    def get_queue(self, hostname: str) -> Queue:
        """Make the queue of the worker of this name."""
        return super().get_queue(f"{hostname}.{uuid4().hex}" if self.is_named_anew else hostname)


class Control(control.Control):  # type: ignore[misc]
    """Celery's remote control, with such a mailbox."""

    Mailbox = Mailbox

    def __init__(self, app: Any = None) -> None:
        super().__init__(app)
        self.mailbox.is_named_anew = is_rabbitmq(app)
