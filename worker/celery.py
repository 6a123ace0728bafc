"""The Celery application: `celery -A worker`."""

from functools import cached_property

from celery import Celery

from worker.environment import environment
from worker.errors import SettingError
from worker.firehose.clients import Clients
from worker.memory_watch import MemoryWatch
from worker.rabbitmq_transport import use_patient_rabbitmq
from worker.redis_transport import use_safe_redis
from worker.serialization import use_orjson
from worker.state import State, connect
from worker.stream_queues import StreamQueues


class AudienceFirehose(Celery):  # type: ignore[misc]
    """Celery, with what the tasks of one process share."""

    @cached_property
    def state(self) -> State:
        """The forwarder's memory in Redis."""
        return connect(environment())

    @cached_property
    def clients(self) -> Clients:
        """The Firehose clients."""
        return Clients(self.state.cipher, environment().firehose_timeout)


def make_app() -> AudienceFirehose:
    """The application. Ends the process with one line where a setting is wrong."""
    try:
        app = AudienceFirehose("audience-firehose")
        use_orjson()
        use_safe_redis()
        use_patient_rabbitmq()
        app.config_from_object("celeryconfig", force=True)
    except SettingError as error:
        raise SystemExit(f"audience-firehose: {error}") from None
    app.steps["consumer"].add(StreamQueues)
    app.steps["consumer"].add(MemoryWatch)
    return app


app = make_app()
