"""Finds the credentials of a configuration: its access key, its role, or those of the worker's machine.

Credentials that cannot be had are trouble of this worker: another worker may have them. Only an answer of
AWS, that the role may not be assumed, is a refusal.
"""

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any, NoReturn, Protocol, TypeVar

import botocore.session
from botocore import exceptions as botocore_exceptions
from botocore.config import Config
from botocore.credentials import AssumeRoleCredentialFetcher, Credentials, DeferredRefreshableCredentials

from schemas.settings import Configuration
from worker.errors import CredentialsError, SecretKeyError
from worker.firehose.deadline import limit_answer_time
from worker.upstream import set_mfa_prompter, set_session_credentials

if TYPE_CHECKING:
    from botocore.client import BaseClient

T = TypeVar("T")

METADATA_ATTEMPTS = 6
METADATA_TIMEOUT_SECONDS = 3
"""botocore's own defaults, one attempt of one second, have a slow start of the instance metadata end in
"no credentials"."""
SESSION_VARIABLES = {
    "metadata_service_num_attempts": (
        "metadata_service_num_attempts",
        "AWS_METADATA_SERVICE_NUM_ATTEMPTS",
        METADATA_ATTEMPTS,
        int,
    ),
    "metadata_service_timeout": (
        "metadata_service_timeout",
        "AWS_METADATA_SERVICE_TIMEOUT",
        METADATA_TIMEOUT_SECONDS,
        int,
    ),
}
"""botocore's settings with other defaults: the profile's key, the environment variable, the default."""

NO_CREDENTIALS = (
    "there are none; give the configuration an access key or a role with `audience-firehose configure`, or"
    " this machine credentials of its own"
)
MFA = (
    "the profile in use asks for an MFA code, which nobody can enter at a worker; use a role or an access key"
    " without MFA"
)
SAFE_TEXTS = (
    botocore_exceptions.ConfigNotFound,
    botocore_exceptions.ConfigParseError,
    botocore_exceptions.InvalidConfigError,
    botocore_exceptions.LoginError,
    botocore_exceptions.PartialCredentialsError,
    botocore_exceptions.ProfileNotFound,
    botocore_exceptions.SSOError,
)
"""botocore's errors whose text names settings and files, and never a secret."""
NETWORK_ERRORS = (botocore_exceptions.ConnectionError, botocore_exceptions.HTTPClientError)


class Cipher(Protocol):
    """Decrypts a stored secret. Raises `SecretKeyError`."""

    def decrypt(self, token: str) -> str: ...


class MfaRequired(Exception):
    """A profile's role needs an MFA code."""


def make_session(
    configuration: Configuration, region: str, config: Config, cipher: Cipher
) -> tuple[botocore.session.Session, Credentials]:
    """A botocore session with the configuration's credentials, and these. They may yet have to be fetched.

    Raises `SecretKeyError`; `CredentialsError` where there are none; botocore's `ClientError` and network
    errors where AWS was asked for them and answered so, or could not be reached.
    """
    return _fetch(lambda: _session(configuration, region, config, cipher))


def resolve(credentials: Credentials) -> None:
    """Fetch credentials that are not there yet or are about to expire. Raises as `make_session` does."""
    _fetch(credentials.get_frozen_credentials)


def cause(error: Exception) -> str:
    """Why credentials could not be had, in words that hold no secret."""
    match error:
        case botocore_exceptions.NoCredentialsError():
            return NO_CREDENTIALS
        case MfaRequired():
            return MFA
        case botocore_exceptions.CredentialRetrievalError():
            # Its text holds what a credential process wrote.
            return f"they could not be fetched by {error.kwargs.get('provider', 'their provider')}"
        case OSError(strerror=str(), filename=str()):
            return f"{error.strerror}: {error.filename}"
    return str(error) if isinstance(error, SAFE_TEXTS) else "they could not be fetched"


def _fetch(fetch: Callable[[], T]) -> T:
    """Call `fetch`, and raise its errors as those that `make_session` documents."""
    try:
        return fetch()
    except (SecretKeyError, botocore_exceptions.ClientError, *NETWORK_ERRORS):
        raise
    except Exception as error:
        # botocore lets the errors of files, processes and JSON pass as they are.
        raise CredentialsError(type(error).__name__, cause(error)) from None


def _session(
    configuration: Configuration, region: str, config: Config, cipher: Cipher
) -> tuple[botocore.session.Session, Credentials]:
    session = botocore.session.Session(session_vars=SESSION_VARIABLES)
    set_mfa_prompter(session, _refuse_to_prompt)
    if configuration.access_key_id and configuration.secret_access_key:
        secret = cipher.decrypt(configuration.secret_access_key)
        token = configuration.session_token and cipher.decrypt(configuration.session_token)
        session.set_credentials(configuration.access_key_id, secret, token)
    credentials = session.get_credentials()
    if credentials is None:
        raise botocore_exceptions.NoCredentialsError
    if configuration.role_arn:
        make_client = partial(_make_client, session, region, config)
        credentials = _role_credentials(credentials, configuration, make_client)
        set_session_credentials(session, credentials)
    return session, credentials


def _role_credentials(
    source: Credentials, configuration: Configuration, make_client: Callable[..., "BaseClient"]
) -> DeferredRefreshableCredentials:
    """Credentials of the configuration's role, fetched when first used and again before they expire.

    The role is assumed with the session's own credentials: the configuration's access
    key where it has one, the environment's otherwise.
    """
    arguments = {"RoleSessionName": f"audience-firehose-{configuration.name}"}
    if configuration.external_id:
        arguments["ExternalId"] = configuration.external_id
    fetcher = AssumeRoleCredentialFetcher(
        client_creator=make_client,
        source_credentials=source,
        role_arn=configuration.role_arn or "",
        extra_args=arguments,
    )
    return DeferredRefreshableCredentials(method="assume-role", refresh_using=fetcher.fetch_credentials)


def _make_client(
    session: botocore.session.Session, region: str, config: Config, service: str, **options: Any
) -> "BaseClient":
    client = session.create_client(service, region_name=region, config=config, **options)
    limit_answer_time(client)
    return client


def _refuse_to_prompt(prompt: str) -> NoReturn:
    raise MfaRequired
