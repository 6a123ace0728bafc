"""The insides of Celery, kombu, billiard and botocore that this project changes or reads by a private name.

Each function here stands for an interface that upstream does not have. Methods that our subclasses
override, and attributes that only those subclasses read, cannot be called through here; they are listed,
with the names below, in `docs/upstream.md`. `tests/project/test_upstream.py` asserts that each exists with
the signature that we rely on.
"""

from collections.abc import Callable, Iterable, Mapping

from billiard import pool
from botocore.awsrequest import AWSPreparedRequest, AWSRequest, AWSResponse
from botocore.client import BaseClient
from botocore.credentials import Credentials
from botocore.session import Session
from celery import Celery
from celery.apps import worker
from celery.concurrency import prefork
from celery.worker.state import requests
from kombu import Consumer, Queue
from kombu.transport import TRANSPORT_ALIASES, _transport_cache


def register_transport(schemes: Iterable[str], path: str) -> None:
    """Make a class (`package.module:Class`) this process's transport for URL schemes.

    kombu looks up a scheme in this table, and Celery gives no other way to replace a built-in transport.
    """
    for scheme in schemes:
        TRANSPORT_ALIASES[scheme] = path
        # A process that has connected before holds kombu's own transport here.
        _transport_cache.pop(scheme, None)


def selected_queues(app: Celery) -> frozenset[str] | None:
    """The queues that the worker was started with (`-Q`); None for a worker without the option.

    The public `consume_from` is all of `task_queues` in that case.
    """
    selected = app.amqp.queues._consume_from
    return None if selected is None else frozenset(selected)


def consume_queue(consumer: Consumer, queue: Queue) -> None:
    """Begin to consume one more queue of a consumer.

    The public `consume` looks at all its queues, and a paused queue is resumed many times a second.
    """
    consumer._basic_consume(queue, no_ack=consumer.no_ack, nowait=False)


def known_request_ids() -> frozenset[str]:
    """IDs of the messages this worker has reserved and not ended: in its pool, or on their way to it."""
    return frozenset(requests)


def replace_shutdown_notice(write: Callable[..., None]) -> None:
    """Have `write` take the lines that a worker prints to stdout when a signal stops it."""
    worker.safe_say = write


def use_process_pool(pool: type) -> None:
    """Have Celery's pool of processes be of this class: a setting chooses among whole implementations."""
    prefork.TaskPool.Pool = pool


def limit_last_result_wait(seconds: float) -> None:
    """Bound how long an ending pool process waits for the main process to read its last result.

    billiard's 30 seconds are no setting.
    """
    pool.GUARANTEE_MESSAGE_CONSUMPTION_RETRY_LIMIT = round(
        seconds / pool.GUARANTEE_MESSAGE_CONSUMPTION_RETRY_INTERVAL
    )


def set_session_credentials(session: Session, credentials: Credentials) -> None:
    """Have a session use credentials that refresh themselves; its public method takes fixed keys only."""
    session._credentials = credentials  # type: ignore[attr-defined]


def set_mfa_prompter(session: Session, prompter: Callable[[str], str]) -> None:
    """Have a session call this where a profile's role asks for an MFA code, in place of `getpass`.

    botocore takes a prompter only from who makes the whole chain of providers.
    """
    session.get_component("credential_provider").get_provider("assume-role")._prompter = prompter


def set_connection_pools(client: BaseClient, pools: Mapping[str, type]) -> None:
    """Have a client that has made no call yet use these urllib3 pools, by URL scheme.

    The dictionary is one object, shared with the managers of direct and of proxied connections.
    """
    client._endpoint.http_session._pool_classes_by_scheme.update(pools)  # type: ignore[attr-defined]


def sign_request(client: BaseClient, operation: str, request: AWSRequest) -> None:
    """Sign a request as the client signs its own, with its credentials as they are now."""
    client._request_signer.sign(operation, request)  # type: ignore[attr-defined]


def send_request(client: BaseClient, request: AWSPreparedRequest) -> AWSResponse:
    """Send a request as the client sends its own, and read the response. Raises what a call raises."""
    return client._endpoint.http_session.send(request)  # type: ignore[attr-defined, no-any-return]
