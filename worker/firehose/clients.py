"""boto3 clients, one a configuration and region, with the credentials of the configuration."""

import logging
from functools import partial
from typing import TYPE_CHECKING, Protocol

import boto3
import botocore.session
from botocore.config import Config
from botocore.credentials import AssumeRoleCredentialFetcher, DeferredRefreshableCredentials
from botocore.exceptions import NoCredentialsError

from schemas.settings import Configuration
from worker.errors import EndpointError
from worker.upstream import set_session_credentials

if TYPE_CHECKING:
    from mypy_boto3_firehose.client import FirehoseClient

CONNECT_TIMEOUT = 5
"""Seconds."""
MOST_CLIENTS = 256
"""That a process keeps, at a quarter of a megabyte each. One more replaces the least recently used."""

CONFIG = Config(
    # Celery owns the retries: with botocore's own the two would multiply.
    retries={"total_max_attempts": 1, "mode": "standard"},
    connect_timeout=CONNECT_TIMEOUT,
    tcp_keepalive=True,
    # Our schemas check names and our batches keep the limits; botocore checks only minimums.
    parameter_validation=False,
    user_agent_extra="audience-firehose",
)

# At DEBUG, botocore writes down what it sends and receives: records, and the keys of an assumed role.
logging.getLogger("botocore").setLevel(logging.INFO)


class Cipher(Protocol):
    """Opens a stored secret. Raises `SecretKeyError`."""

    def decrypt(self, token: str) -> str: ...


class Clients:
    """This process's Firehose clients. Made when first needed, and again when a configuration changes."""

    def __init__(self, cipher: Cipher, read_timeout: int) -> None:
        """`read_timeout`: seconds for which an answer is waited for."""
        self._cipher = cipher
        self._config = CONFIG.merge(Config(read_timeout=read_timeout))
        # By when they were used, the latest last.
        self._clients: dict[tuple[Configuration, str], FirehoseClient] = {}
        # What AWS's services are like takes 8 MB to know, and is the same for all.
        self._loader = botocore.session.Session().get_component("data_loader")

    def get(self, configuration: Configuration, region: str) -> "FirehoseClient":
        """The client for this configuration in this region. Raises `EndpointError` and `SecretKeyError`."""
        key = configuration, region
        client = self._clients.pop(key, None)
        if client is None:
            self.forget(configuration.name, region)
            client = self._make(configuration, region)
        self._clients[key] = client
        if len(self._clients) > MOST_CLIENTS:
            del self._clients[next(iter(self._clients))]
        return client

    def forget(self, configuration_name: str, region: str) -> None:
        """Drop the client, and with it its credentials: they have expired or have been replaced."""
        for key in [k for k in self._clients if (k[0].name, k[1]) == (configuration_name, region)]:
            del self._clients[key]

    def _make(self, configuration: Configuration, region: str) -> "FirehoseClient":
        session = self._session(configuration, region)
        try:
            return session.client("firehose", region_name=region, config=self._config)
        except ValueError:
            # botocore's text repeats the URL, which may hold a password.
            advice = "AWS_ENDPOINT_URL_FIREHOSE must be a URL such as http://localhost:5000"
            raise EndpointError(advice) from None

    def _session(self, configuration: Configuration, region: str) -> boto3.Session:
        session = botocore.session.Session()
        if configuration.access_key_id and configuration.secret_access_key:
            secret = self._cipher.decrypt(configuration.secret_access_key)
            token = configuration.session_token and self._cipher.decrypt(configuration.session_token)
            session.set_credentials(configuration.access_key_id, secret, token)
        if configuration.role_arn:
            set_session_credentials(session, _role_credentials(session, configuration, region, self._config))
        made = boto3.Session(botocore_session=session)
        # Only now: boto3 adds to the search path of the one it finds, each time.
        session.register_component("data_loader", self._loader)
        return made


def _role_credentials(
    session: botocore.session.Session, configuration: Configuration, region: str, config: Config
) -> DeferredRefreshableCredentials:
    """Credentials of the configuration's role, fetched when first used and again before they expire.

    The role is assumed with the session's own credentials: the configuration's access
    key where it has one, the environment's otherwise.
    """
    source = session.get_credentials()
    if source is None:
        raise NoCredentialsError
    arguments = {"RoleSessionName": f"audience-firehose-{configuration.name}"}
    if configuration.external_id:
        arguments["ExternalId"] = configuration.external_id
    fetcher = AssumeRoleCredentialFetcher(
        client_creator=partial(session.create_client, region_name=region, config=config),
        source_credentials=source,
        role_arn=configuration.role_arn or "",
        extra_args=arguments,
    )
    return DeferredRefreshableCredentials(method="assume-role", refresh_using=fetcher.fetch_credentials)
