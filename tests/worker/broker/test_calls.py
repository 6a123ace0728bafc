"""A call that is sent without Celery's layers is the message that Celery sends."""

import json

import pytest

from worker.broker.calls import Call, send_call
from worker.celery import app
from worker.privacy import HIDDEN

CALL = Call(
    id="delivery",
    task="audience.deliver.us-east-1",
    kwargs={"records": ["secretive"], "audience_ids": [1]},
    queue="firehose.main.us-east-1.travel",
    headers={"firehose_records": 1},
)


@pytest.fixture
def producer(monkeypatch, real_redis, real_redis_url):
    for name in ("broker_url", "broker_read_url", "broker_write_url"):
        monkeypatch.setitem(app.conf, name, real_redis_url)
    with app.connection_for_write() as connection:
        yield app.amqp.Producer(connection)


def collect(producer, send):
    """The message that is sent, without what each has of its own, and the list that it is for."""
    with producer.channel.collecting() as messages:
        send()
    ((queue, text),) = messages
    message = json.loads(text)
    del message["properties"]["delivery_tag"]
    return queue, message


def test_a_call_is_the_message_that_send_task_sends(producer):
    def by_celery():
        app.send_task(
            CALL.task,
            kwargs=CALL.kwargs,
            queue=CALL.queue,
            task_id=CALL.id,
            headers=CALL.headers,
            root_id="root",
            parent_id="run",
            argsrepr=HIDDEN,
            kwargsrepr=HIDDEN,
            producer=producer,
        )

    def directly():
        send_call(app, producer, CALL, root_id="root", parent_id="run")

    queue, message = collect(producer, by_celery)
    # Celery has these among the headers and, as no broker reads them, in vain among the properties.
    for name in ("argsrepr", "kwargsrepr"):
        del message["properties"][name]
    assert collect(producer, directly) == (queue, message)
