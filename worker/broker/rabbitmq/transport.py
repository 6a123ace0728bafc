"""kombu's transport for RabbitMQ, with connections that make our channels."""

from functools import cached_property
from typing import Any

from kombu.transport import pyamqp

from worker.broker.rabbitmq.channel import Channel, RunsChannel
from worker.broker.rabbitmq.delay_queues import DelayQueues
from worker.broker.rabbitmq.publishing import Publications
from worker.broker.rabbitmq.runs import Runs, RunsConnection
from worker.queues import RUN_MESSAGES
from worker.upstream import register_transport


class Connection(RunsConnection):
    """A connection with these channels."""

    Channel = Channel
    prefetch_count = 1
    """The last limit of messages that Celery has set."""

    def limit_runs(self, prefetch_count: int) -> None:
        """Limit the messages that the pool has at a time; 0 stands for no limit."""
        self.prefetch_count = prefetch_count or RUN_MESSAGES
        if self.runs is not None:
            self.runs.most_in_pool = self.prefetch_count

    def reserve_runs(self) -> Runs:
        """The messages of changes that are reserved, on a channel that is made for them."""
        if self.runs is None:
            most = self.client.transport_options.get("run_messages", RUN_MESSAGES)
            channel = RunsChannel(self, most=most, in_pool=self.prefetch_count)
            channel.open()
            self.runs = channel.runs
        return self.runs

    @cached_property
    def publications(self) -> Publications:
        """The channel on which messages are published together."""
        return Publications(self.channel())

    @cached_property
    def delay_queues(self) -> DelayQueues:
        """The delay queues of the same virtual host."""
        return DelayQueues(self.client)

    @cached_property
    def declarations(self) -> Any:
        """A channel for declarations: RabbitMQ closes a channel, with its consumers, over a queue that does
        not exist or is another. py-amqp opens it again by itself."""
        return self.channel()

    def collect(self) -> None:
        super().collect()
        if "delay_queues" in self.__dict__:
            self.delay_queues.close()


class Transport(pyamqp.Transport):  # type: ignore[misc]
    """kombu's transport for RabbitMQ, with these connections."""

    Connection = Connection

    def qos_semantics_matches_spec(self, connection: Any) -> bool:
        """Always True: Celery limits the messages of each consumer, and not those of the channel, which
        quorum queues and RabbitMQ 4 refuse."""
        return True


class SSLTransport(Transport, pyamqp.SSLTransport):  # type: ignore[misc]
    """The same over TLS."""


def register_rabbitmq_transport() -> None:
    """Make it this process's transport for `amqp://`, `pyamqp://` and `amqps://`."""
    register_transport(("amqp", "pyamqp"), f"{__name__}:{Transport.__name__}")
    register_transport(("amqps",), f"{__name__}:{SSLTransport.__name__}")
