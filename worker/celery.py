"""The Celery application: `celery -A worker`."""

from functools import cached_property
from uuid import UUID

from celery import Celery

from worker.broker.compression import register_bounded_compression
from worker.broker.handovers import Handovers, needs_marks
from worker.broker.installation import BrokerIdentity
from worker.broker.outbox import Outbox
from worker.broker.rabbitmq.transport import register_rabbitmq_transport
from worker.broker.redis.transport import register_redis_transport
from worker.broker.reservations import Reservations
from worker.broker.serialization import register_orjson
from worker.config import current_log_format, current_settings
from worker.consumer.dropped_messages import DroppedMessages
from worker.consumer.monitoring.task_events import TaskEvents
from worker.consumer.notifications import Notifications
from worker.consumer.periodic.memory_watch import MemoryWatch
from worker.consumer.periodic.replica_watch import ReplicaWatch
from worker.consumer.periodic.uncounted_runs import UncountedRuns
from worker.consumer.periodic.unfinished_runs import UnfinishedRuns
from worker.consumer.start.garbage_collection import collect_less
from worker.consumer.start.pool import set_up_pool
from worker.consumer.start.requirements import Requirements
from worker.consumer.stream_queues import StreamQueues
from worker.consumer.troubles.broker_trouble import BrokerTrouble
from worker.consumer.troubles.lost_polls import LostPolls
from worker.consumer.troubles.queue_troubles import QueueTroubles
from worker.errors import SettingError
from worker.failures.apprise_sender import apprise_sender
from worker.failures.notifications import Notifier
from worker.firehose.clients import Clients
from worker.firehose.permissions import PutRecordOnly
from worker.logs.lost_acknowledgements import shorten_lost_acknowledgements
from worker.logs.per_task_lines import drop_per_task_lines
from worker.logs.repetitions import drop_repetitions
from worker.logs.sentry import redact_sentry
from worker.logs.setup import set_up_logs
from worker.services import KEPT_VISIBILITY_TIMEOUTS, Services, connect
from worker.state.installation import Installation


class AudienceFirehose(Celery):  # type: ignore[misc]
    """Celery, with what the tasks of one process share."""

    events_cls = "worker.consumer.monitoring.events:BoundedEvents"
    control_cls = "worker.consumer.monitoring.remote_control:Control"
    amqp_cls = "worker.consumer.task_consumer:AMQP"

    @cached_property
    def Worker(self) -> type:  # noqa: N802
        """Celery makes the worker of this class."""
        worker: type = self.subclass_with_self("worker.consumer.start.program:Worker")
        return worker

    @cached_property
    def services(self) -> Services:
        """The parts that share the state's Redis."""
        return connect(current_settings())

    @cached_property
    def clients(self) -> Clients:
        """The Firehose clients."""
        return Clients(self.services.cipher, self.services.settings.firehose_timeout)

    @cached_property
    def installation(self) -> Installation:
        """The identity that ties the broker to the state."""
        return Installation(self.services.redis, BrokerIdentity(self), self.services.monotonic)

    @cached_property
    def handovers(self) -> Handovers:
        """The marks in the broker of what attempts have sent."""
        settings = self.services.settings
        return Handovers(
            self,
            keep_seconds=KEPT_VISIBILITY_TIMEOUTS * settings.visibility_timeout,
            are_needed=needs_marks(settings.broker_url, settings.redis_url),
        )

    @cached_property
    def reservations(self) -> Reservations:
        """The reserved messages, for runs."""
        services, window_seconds = self.services, self.services.settings.visibility_timeout
        outbox = Outbox(
            services.redis,
            window_seconds=window_seconds,
            alone_keys=lambda keys: services.idempotency.keys_of(str(UUID(bytes=key)) for key in keys),
            record_counts=services.run_recorder.record_text,
        )
        return Reservations(self, outbox, window_seconds=window_seconds, monotonic=services.monotonic)

    @cached_property
    def notifier(self) -> Notifier | None:
        """None without AUDIENCE_ALERT_URLS. Raises `SettingError` for a URL that apprise does not know."""
        settings, services = current_settings(), self.services
        if not settings.alert_urls:
            return None
        return Notifier(
            services.redis,
            alerts=services.alerts.all,
            states=services.alerts.states,
            send=apprise_sender(settings.alert_urls),
            clock=services.clock,
            environment_name=settings.environment_name,
        )

    @cached_property
    def put_record_only(self) -> PutRecordOnly:
        """The streams that take records by PutRecord alone."""
        return PutRecordOnly()


def make_app() -> AudienceFirehose:
    """The application. Ends the process with one line where a setting is wrong."""
    try:
        set_up_logs(current_log_format())
        app = AudienceFirehose("audience-firehose")
        register_orjson()
        register_bounded_compression()
        register_redis_transport()
        register_rabbitmq_transport()
        app.config_from_object("celeryconfig", force=True)
    except SettingError as error:
        raise SystemExit(f"audience-firehose: {error}") from None
    drop_repetitions()
    drop_per_task_lines()
    shorten_lost_acknowledgements()
    set_up_pool()
    collect_less()
    redact_sentry()
    app.steps["worker"].add(Requirements)
    app.steps["consumer"].add(TaskEvents)
    app.steps["consumer"].add(BrokerTrouble)
    app.steps["consumer"].add(QueueTroubles)
    app.steps["consumer"].add(LostPolls)
    app.steps["consumer"].add(StreamQueues)
    app.steps["consumer"].add(DroppedMessages)
    app.steps["consumer"].add(MemoryWatch)
    app.steps["consumer"].add(ReplicaWatch)
    app.steps["consumer"].add(UncountedRuns)
    app.steps["consumer"].add(UnfinishedRuns)
    app.steps["consumer"].add(Notifications)
    return app


app = make_app()
