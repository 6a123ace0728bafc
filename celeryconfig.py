"""Celery's settings. Those that an operator may change come from `worker.config`."""

from typing import Any

from kombu import Queue

from worker.broker.rabbitmq.channel import QUEUE_TYPE_OPTION
from worker.config import current_settings
from worker.firehose.regions import rate_limits
from worker.queues import CHANGES_QUEUE, delivery_task
from worker.store.connections import KEEPALIVE, TIMEOUTS
from worker.store.sentinel import kombu_url

RESTORE_INTERVAL_SECONDS = 1
RESTORED_MESSAGES = 200
"""At a time. That takes a tenth of a second, in which a worker does nothing else."""

broker_url, sentinel_options = kombu_url(current_settings().broker_url)
# Celery reads CELERY_BROKER_URL itself and prefers it, as it stands there, to `broker_url`.
broker_read_url = broker_write_url = broker_url
broker_connection_retry_on_startup = True
broker_connection_max_retries = None
broker_transport_options: dict[str, Any] = {
    # Redis: when the messages of a worker that died come back.
    "visibility_timeout": current_settings().visibility_timeout,
    # Redis: check this often for them and for retries that are due, and not at every tenth interval.
    "unacked_restore_interval": RESTORE_INTERVAL_SECONDS,
    "unacked_restore_throttle": 1,
    "unacked_restore_limit": RESTORED_MESSAGES,
    # Redis: seconds until the lock of a worker that died over this is void.
    "unacked_mutex_expire": 10,
    # Redis: so many messages of changes are reserved together at most.
    "run_messages": current_settings().run_messages,
    # Redis: replicas that are waited for after a message was sent.
    "wait_replicas": current_settings().redis_wait_replicas,
    # RabbitMQ: a message is sent when the broker has it, not when the socket took it.
    "confirm_publish": True,
}
if sentinel_options:
    sentinel_options["sentinel_kwargs"] |= TIMEOUTS | KEEPALIVE
    broker_transport_options |= sentinel_options
if not broker_url.startswith("amqp") and not broker_url.startswith("pyamqp"):
    # Redis: a half-open connection is found and replaced.
    broker_transport_options |= TIMEOUTS | KEEPALIVE
else:
    broker_transport_options[QUEUE_TYPE_OPTION] = current_settings().rabbitmq_queue_type
    # A task that cannot send requeues its message; while it waits for connections, its worker does not end.
    task_publish_retry_policy = {"max_retries": 1, "interval_start": 0.2}
# RabbitMQ: the connection is given up after two of these seconds without a sign of life.
broker_heartbeat = 10
# Otherwise Celery would delay messages by its own exchanges where a queue is a quorum queue.
worker_detect_quorum_queues = False

accept_content = ["json"]
task_serializer = "json"
result_serializer = "json"
# Batches of records shrink to a sixth or less, which the broker's memory and the workers' time feel.
task_compression = "zstd"

task_default_queue = CHANGES_QUEUE
task_queues = [Queue(CHANGES_QUEUE)]
"""Every registered stream's queue is added while the worker runs: `worker.consumer.stream_queues`."""

task_ignore_result = True
task_store_errors_even_if_ignored = False

# A message is acknowledged when its records are safe elsewhere, not when it is reserved.
task_acks_late = True
task_reject_on_worker_lost = True
task_acks_on_timeout = False
worker_prefetch_multiplier = 1
# Deliveries wait for Firehose rather than for a processor, and a stream that does not answer leaves two
# of eight to the others. Celery would count the machine's processors, not a container's.
worker_concurrency = 8

RETRY_POLICY = {
    "max_retries": current_settings().retry_max,
    "retry_backoff": current_settings().retry_backoff,
    "retry_backoff_max": current_settings().retry_backoff_max,
}
task_annotations = {
    delivery_task(region): {"rate_limit": rate, **RETRY_POLICY}
    for region, rate in rate_limits(current_settings().rate_limits).items()
}

worker_consumer = "worker.consumer.consumer:Consumer"
worker_hijack_root_logger = True
# While somebody listens, they are on: `worker.consumer.monitoring.task_events`.
worker_send_task_events = False
worker_cancel_long_running_tasks_on_connection_loss = False

imports = ["tasks.forward", "tasks.runs", "tasks.deliver"]
enable_utc = True
timezone = "UTC"
