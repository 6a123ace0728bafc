"""Boot step: refuses a pool or a broker that would not deliver messages, before the first one, and reports
what this worker will not be able to do."""

import logging
from collections.abc import Iterable, Iterator
from typing import Any

from celery import bootsteps
from celery.worker import WorkController
from kombu.exceptions import OperationalError
from redis.exceptions import RedisError

from worker.broker.checks import check_broker
from worker.broker.client import is_rabbitmq
from worker.config import checked_broker_url, current_settings, verifies_certificate
from worker.consumer.start.checks import report_troubles
from worker.queues import CHANGES_QUEUE, is_stream_queue
from worker.store.server_checks import Check, Finding, Outcome, check_redis
from worker.upstream import selected_queues

REFUSED = (Check.CLUSTER, Check.EVICTION)
"""The checks that a server must not fail: there a worker delivers nothing, or loses messages."""
REFUSED_POOLS = ("gevent", "eventlet")
THREADS = "thread"
"""The module of Celery's pool of threads."""

logger = logging.getLogger(__name__)


class Requirements(bootsteps.Step):  # type: ignore[misc]
    """Checks the worker's pool and its broker as the worker starts."""

    requires = ("celery.worker.components:Pool",)

    def __init__(self, worker: WorkController, **options: Any) -> None:
        super().__init__(worker, **options)
        if problem := problem_of(worker):
            raise SystemExit(f"audience-firehose: {problem}")
        warn_about_unverified_certificates()
        warn_about_strange_queues(selected_queues(worker.app) or ())
        services = worker.app.services
        report_troubles(
            worker.hostname,
            malformed_endpoint=services.settings.malformed_endpoint,
            registry=services.registry,
            cipher=services.cipher,
            alerts=services.alerts,
        )
        adopt_installation(worker.app)


def adopt_installation(app: Any) -> None:
    """Tie the broker to the state where nothing does so yet."""
    try:
        app.installation.adopt()
    except (OperationalError, RedisError, OSError) as error:
        logger.warning("%s: cannot compare the broker with the state", type(error).__name__)


def warn_about_unverified_certificates() -> None:
    """Warn where a setting turns the verification of a server's certificate off."""
    settings = current_settings()
    urls = {"CELERY_BROKER_URL": settings.broker_url, "AUDIENCE_REDIS_URL": settings.redis_url}
    for name, url in urls.items():
        if not all(map(verifies_certificate, url.split(";"))):
            logger.warning("%s: ssl_cert_reqs turns off the verification of the server's certificate", name)


def warn_about_strange_queues(selected: Iterable[str]) -> None:
    """Warn of queues that `-Q` names and that nothing of ours is sent to."""
    for queue in sorted(selected):
        if queue != CHANGES_QUEUE and not is_stream_queue(queue):
            logger.warning(
                "-Q %s: no change and no batch comes by this queue; those are %s and"
                " firehose.<configuration>.<region>.<stream>",
                queue,
                CHANGES_QUEUE,
            )


def problem_of(worker: WorkController) -> str | None:
    """The reason why a worker must not start; None where it may."""
    pool = worker.pool_cls.__module__.rpartition(".")[2]
    if pool in REFUSED_POOLS:
        return (
            f"-P {pool}: in a trial no batch was delivered under its patched sockets, and batches became"
            " dead letters; use the default pool (prefork)"
        )
    if worker.time_limit or worker.soft_time_limit:
        return (
            "--time-limit and --soft-time-limit: nobody knows what an interrupted task has delivered; leave"
            " them out, as each call of Firehose has a limit of its own"
        )
    try:
        # Given by `-b`, it has not been checked as a setting.
        checked_broker_url(worker.app.conf.broker_read_url or worker.app.conf.broker_url or "")
    except ValueError as error:
        return f"broker URL: {error}"
    if pool == THREADS and is_rabbitmq(worker.app):
        return (
            "-P threads: its threads acknowledge messages on the connection that the main thread reads, and"
            " both wait for ever; use the default pool (prefork), or a Redis broker"
        )
    if (worker.app.conf.broker_transport_options or {}).get("global_keyprefix"):
        return "global_keyprefix: scripts take the broker's keys without one; use a Redis database of its own"
    return _problem_of_server(worker.app)


def _problem_of_server(app: Any) -> str | None:
    replicas = app.services.settings.redis_wait_replicas
    problems = [
        _problem(findings, name, url_name)
        for name, url_name, findings in (
            ("broker", "CELERY_BROKER_URL", check_broker(app, replicas)),
            ("state", "AUDIENCE_REDIS_URL", check_redis(app.services.redis, "audience:", replicas)),
        )
    ]
    return next(filter(None, problems), None)


def _problem(findings: Iterator[Finding], server: str, url_name: str) -> str | None:
    """Log what is wrong with a server; the problem that keeps a worker from starting, if there is one."""
    problem = None
    try:
        for check, outcome, message in findings:
            if outcome == Outcome.FAILED and check in REFUSED:
                problem = f"the {server} ({url_name}): {check}: {message}"
            elif outcome != Outcome.OK:
                logger.warning("%s: %s: %s; see `audience-firehose doctor`", server, check, message)
    except (OperationalError, RedisError, OSError) as error:
        # Celery connects again and again; a server that is away says nothing of itself.
        logger.warning("%s: cannot check the %s", type(error).__name__, server)
    return problem
