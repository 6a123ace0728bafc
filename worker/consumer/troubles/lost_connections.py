"""Gives up, with the consumer's lost connection to RabbitMQ, the others of the main process.

Over a network that drops packets each of them would be found out by a wait of its own, one after another,
while nothing is consumed.
"""

from celery.worker.consumer import Consumer

from worker.broker.client import is_rabbitmq


def give_up_connections(consumer: Consumer) -> None:
    """Close the connections for events and for remote control without a word; new ones are made."""
    if not is_rabbitmq(consumer.app):
        return
    pool = consumer.app.pool
    pool.force_close_all(close_pool=False)
    # It has also removed the places of connections that were not made yet.
    pool.setup()
    if consumer.event_dispatcher is not None:
        consumer.event_dispatcher.give_up()
