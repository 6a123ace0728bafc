"""Explanations of errors to operators: a line with the next step, and never a traceback."""

import traceback
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlsplit

from botocore.exceptions import BotoCoreError, ClientError
from kombu.exceptions import OperationalError
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError, TimeoutError

from worker.config import current_settings
from worker.errors import AudienceFirehoseError
from worker.store.cluster import DatabaseRefused
from worker.store.replicas import TooFewReplicas

PROJECT = Path(__file__).parents[2]


def explain(error: Exception) -> str:
    """Explain an error and the next step. An error of a library is reduced to what cannot hold a value."""
    for kinds, explanation in EXPLANATIONS:
        if isinstance(error, kinds):
            return explanation(error)
    return f"a defect in audience-firehose: {type(error).__name__} at {_place(error)}; please report it"


def _ours(error: Exception) -> str:
    return str(error) or type(error).__doc__ or type(error).__name__


def _broker_away(error: Exception) -> str:
    address = address_of(current_settings().broker_url)
    return (
        f"the broker at {address} is out of reach ({_reason(error)}); start it, or correct CELERY_BROKER_URL"
    )


def _redis_away(error: Exception) -> str:
    address = address_of(current_settings().redis_url)
    return f"Redis at {address} is out of reach ({_reason(error)}); start it, or correct AUDIENCE_REDIS_URL"


def _redis_refuses(error: Exception) -> str:
    address = address_of(current_settings().redis_url)
    code = str(error).partition(" ")[0]
    # The rest of the answer may quote what was sent.
    reason = code if code.isupper() else type(error).__name__
    return f"Redis at {address} refuses a command ({reason}); see its log, and AUDIENCE_REDIS_URL"


def _too_few_replicas(error: Exception) -> str:
    return f"{error}: the master has it, and it is lost if the master fails now; see `doctor`, then repeat it"


def _aws(error: Exception) -> str:
    return f"AWS or its settings ({type(error).__name__}); check the configuration and the AWS_… variables"


def _no_text(_: Exception) -> str:
    return "an argument holds a character that is no valid text"


def _system(error: Exception) -> str:
    assert isinstance(error, OSError)
    return f"{error.filename or 'a file or a device'}: {error.strerror or type(error).__name__}"


EXPLANATIONS: tuple[tuple[tuple[type[Exception], ...], Callable[[Exception], str]], ...] = (
    ((AudienceFirehoseError, DatabaseRefused), _ours),
    ((OperationalError,), _broker_away),
    ((RedisConnectionError, TimeoutError), _redis_away),
    ((TooFewReplicas,), _too_few_replicas),
    ((RedisError,), _redis_refuses),
    ((BotoCoreError, ClientError), _aws),
    ((OSError,), _system),
    ((UnicodeEncodeError,), _no_text),
)


def address_of(url: str) -> str:
    """The host and port of a server's URL, without its password; of several, the first."""
    url = url.partition(";")[0]
    parts = urlsplit(url)
    return f"{parts.hostname or parts.path}{f':{parts.port}' if parts.port else ''}"


def _reason(error: Exception) -> str:
    return str(error).rstrip(".") or type(error).__name__


def _place(error: Exception) -> str:
    """The innermost line of our own code that raised it."""
    frames = traceback.extract_tb(error.__traceback__)
    ours = [frame for frame in frames if _is_ours(Path(frame.filename))]
    return f"{Path(ours[-1].filename).relative_to(PROJECT)}:{ours[-1].lineno}" if ours else "an unknown place"


def _is_ours(path: Path) -> bool:
    return path.is_relative_to(PROJECT) and "site-packages" not in path.relative_to(PROJECT).parts
