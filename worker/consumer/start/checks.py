"""Finds out, as a worker starts, why it could not deliver: troubles that its own settings cause.

It starts all the same. Other configurations may need nothing of what is wrong, and its batches would meet
the same trouble and go to other workers.
"""

import logging

from redis.exceptions import RedisError

from worker.errors import EndpointError, SecretKeyError
from worker.failures.alerts import Alerts
from worker.failures.worker_trouble import report_worker_trouble
from worker.firehose.errors import classify
from worker.state.registry import Registry
from worker.state.secrets import Cipher

logger = logging.getLogger(__name__)


def report_troubles(
    worker: str, *, malformed_endpoint: str | None, registry: Registry, cipher: Cipher, alerts: Alerts
) -> None:
    """Log each trouble that this worker would meet, and raise its alert.

    `malformed_endpoint` is the variable whose URL is none.
    """
    try:
        found = [*_malformed_endpoint(malformed_endpoint), *_undecryptable_secret(registry, cipher)]
    except RedisError as error:
        logger.warning("%s: cannot check whether the stored secrets can be read", type(error).__name__)
        return
    for trouble in found:
        report_worker_trouble(alerts, worker, classify(trouble).failure)


def _malformed_endpoint(variable: str | None) -> list[EndpointError]:
    """The URL is not repeated: it may hold a password."""
    return [EndpointError(f"{variable} must be a URL such as http://localhost:5000")] if variable else []


def _undecryptable_secret(registry: Registry, cipher: Cipher) -> list[SecretKeyError]:
    """The first stored secret that this worker cannot decrypt."""
    for configuration in registry.snapshot().configurations.values():
        if configuration.secret_access_key:
            try:
                cipher.decrypt(configuration.secret_access_key)
            except SecretKeyError as error:
                return [error]
    return []
