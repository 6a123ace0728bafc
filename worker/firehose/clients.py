"""boto3 clients, one a configuration and region, with the credentials of the configuration."""

import logging
from typing import TYPE_CHECKING

import boto3
from botocore.config import Config
from botocore.credentials import Credentials
from botocore.loaders import Loader, create_loader

from schemas.settings import Configuration
from worker.errors import EndpointError
from worker.firehose.credentials import Cipher, make_session, resolve
from worker.firehose.exchanges import make_exchanges_plain
from worker.firehose.lean_calls import make_calls_lean

if TYPE_CHECKING:
    from mypy_boto3_firehose.client import FirehoseClient

CONNECT_TIMEOUT_SECONDS = 5
MOST_CLIENTS = 256
"""Clients that a process keeps, at a quarter of a megabyte each. A further one replaces the least recently
used."""

CONFIG = Config(
    # Celery owns the retries: with botocore's own the two would multiply.
    retries={"total_max_attempts": 1, "mode": "standard"},
    connect_timeout=CONNECT_TIMEOUT_SECONDS,
    tcp_keepalive=True,
    # Our schemas check names and our batches keep the limits; botocore checks only minimums.
    parameter_validation=False,
    user_agent_extra="audience-firehose",
)

# At DEBUG, botocore logs what it sends and receives: records, and the keys of an assumed role. At INFO it
# logs where each new client has its credentials from.
logging.getLogger("botocore").setLevel(logging.WARNING)


class Clients:
    """This process's Firehose clients. Made when first needed, and again when a configuration changes."""

    def __init__(self, cipher: Cipher, read_timeout: int) -> None:
        """`read_timeout`: seconds for which an answer is waited for."""
        self._cipher = cipher
        self._config = CONFIG.merge(Config(read_timeout=read_timeout))
        # The least recently used first.
        self._clients: dict[tuple[Configuration, str], tuple[FirehoseClient, Credentials]] = {}
        # The descriptions of AWS's services take 8 MB, and are the same for all.
        self._loader: Loader = create_loader()

    def get(self, configuration: Configuration, region: str) -> "FirehoseClient":
        """The client for this configuration in this region. Its credentials are there and have not expired.

        Raises `EndpointError`, `SecretKeyError` and `CredentialsError`, and botocore's errors where AWS was
        asked for the credentials.
        """
        key = configuration, region
        kept = self._clients.pop(key, None)
        if kept is None:
            self.forget(configuration.name, region)
            kept = self._make(configuration, region)
        client, credentials = kept
        resolve(credentials)
        self._clients[key] = kept
        if len(self._clients) > MOST_CLIENTS:
            del self._clients[next(iter(self._clients))]
        return client

    def forget(self, configuration_name: str, region: str) -> None:
        """Drop the client, and with it its credentials: they have expired or have been replaced."""
        for key in [k for k in self._clients if (k[0].name, k[1]) == (configuration_name, region)]:
            del self._clients[key]

    def _make(self, configuration: Configuration, region: str) -> "tuple[FirehoseClient, Credentials]":
        session, credentials = make_session(configuration, region, self._config, self._cipher)
        boto3_session = boto3.Session(botocore_session=session)
        # Only now: boto3 adds to the search path of the one it finds, each time.
        session.register_component("data_loader", self._loader)
        try:
            client = boto3_session.client("firehose", region_name=region, config=self._config)
        except ValueError:
            # botocore's text repeats the URL, which may hold a password.
            advice = "AWS_ENDPOINT_URL_FIREHOSE must be a URL such as http://localhost:5000"
            raise EndpointError(advice) from None
        make_exchanges_plain(client)
        make_calls_lean(client)
        return client, credentials
