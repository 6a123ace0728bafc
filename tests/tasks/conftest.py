"""The tasks in the test's own process, on an in-memory broker and a Redis of their own."""

import pytest
from identity import FakeBrokerIdentity
from little_worker import LittleWorker, RabbitMQWorker, RunWorker, forget_all_messages, forget_producers

import schemas.many_changes
import tasks.forward
import tasks.runs
from devstack.firehose import FakeFirehose
from schemas.settings import Configuration
from tasks.deliver import DELIVERY_TASKS
from worker.celery import app as real_app
from worker.firehose.clients import Clients
from worker.firehose.permissions import PutRecordOnly
from worker.queues import CHANGES_QUEUE
from worker.state.installation import Installation


@pytest.fixture
def app(services, monkeypatch):
    """The application, over the test's state and broker."""
    for name in ("broker_url", "broker_read_url", "broker_write_url"):
        monkeypatch.setitem(real_app.conf, name, "memory://")
    monkeypatch.setitem(real_app.__dict__, "services", services)
    installation = Installation(services.redis, FakeBrokerIdentity(), services.monotonic)
    monkeypatch.setitem(real_app.__dict__, "installation", installation)
    monkeypatch.setitem(real_app.__dict__, "put_record_only", PutRecordOnly())
    monkeypatch.delitem(real_app.__dict__, "reservations", raising=False)
    real_app.set_current()
    forget_producers()
    forget_all_messages()
    yield real_app
    forget_producers()


@pytest.fixture(scope="session")
def firehose_server():
    with FakeFirehose() as firehose:
        yield firehose


@pytest.fixture
def firehose(firehose_server):
    """A Firehose without streams and without faults."""
    firehose_server.faults.clear()
    firehose_server.calls.clear()
    firehose_server.streams.clear()
    return firehose_server


class KeptClients:
    """Real clients, made once for all tests."""

    def __init__(self, clients):
        self._clients = clients
        self.forgotten = []

    def get(self, configuration, region):
        return self._clients.get(configuration, region)

    def forget(self, configuration_name, region):
        self.forgotten.append((configuration_name, region))


@pytest.fixture(scope="session")
def real_clients(firehose_server):
    clients = Clients(cipher=None, read_timeout=30)
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("AWS_ENDPOINT_URL_FIREHOSE", firehose_server.url)
        environment.setenv("AWS_ACCESS_KEY_ID", "AKIASECRETIVE0001")
        environment.setenv("AWS_SECRET_ACCESS_KEY", "secretive")
        clients.get(Configuration("main"), "us-east-1")
    return clients


@pytest.fixture
def clients(app, real_clients, monkeypatch):
    kept = KeptClients(real_clients)
    monkeypatch.setitem(app.__dict__, "clients", kept)
    return kept


@pytest.fixture
def worker(app, clients):
    return LittleWorker(app)


@pytest.fixture
def broker(request):
    """The server that the broker is, where it is one: `redis` or `rabbitmq`."""
    return request.param


@pytest.fixture
def run_worker(app, clients, broker, request, monkeypatch):
    """A worker that runs changes in runs, over a real broker; in columns, however few a message has."""
    if broker == "in columns":
        for module in (schemas.many_changes, tasks.runs):
            monkeypatch.setattr(module, "MANY_CHANGES", 1)
    if broker != "rabbitmq":
        request.getfixturevalue("real_redis")
        url, kind = request.getfixturevalue("real_redis_url"), RunWorker
    else:
        url, kind = request.getfixturevalue("tasks_rabbitmq_url"), RabbitMQWorker
    for name in ("broker_url", "broker_read_url", "broker_write_url"):
        monkeypatch.setitem(app.conf, name, url)
    if broker == "rabbitmq":
        monkeypatch.setitem(app.conf, "broker_transport_options", {"confirm_publish": True})
    forget_producers()
    worker = kind(app)
    yield worker
    if broker == "rabbitmq":
        worker.close()


@pytest.fixture
def connect(services):
    """Tie an audience to a stream; the stream."""
    services.registry.configure(name="main")

    def make(audience_id=1, name="travel", region="us-east-1", configuration="main", **settings):
        identifier = services.registry.connect(
            audience_id=audience_id,
            configuration=configuration,
            delivery_stream_name=name,
            region=region,
            **settings,
        )
        return next(
            r.stream
            for r in services.registry.snapshot().routes[audience_id]
            if r.connection_id == identifier
        )

    return make


@pytest.fixture
def forward(worker):
    """Send changes to `audience.forward`, and run it."""

    def send(*changes, task="audience.forward", **options):
        worker.send(task, {"changes": list(changes)}, **options)
        worker.run(CHANGES_QUEUE)

    return send


@pytest.fixture
def stream(connect, firehose):
    firehose.create("travel")
    return connect()


@pytest.fixture
def deliver(worker, stream):
    """Enqueue a batch for the stream, and run everything that comes of it."""

    def send(*records, then=None, run=True, queue=None, **options):
        call = {
            "configuration": stream.configuration,
            "delivery_stream_name": stream.name,
            "records": list(records),
            "connection_ids": ["1-a"],
            "audience_ids": [1],
        }
        if then:
            call["then"] = then
        worker.send(stream.task, call, queue=queue or stream.queue, **options)
        if run:
            worker.run(stream.queue)

    return send


@pytest.fixture
def few_retries(monkeypatch, stream):
    """Three, rather than hours of them."""
    monkeypatch.setattr(DELIVERY_TASKS[stream.region], "max_retries", 3)
