"""The settings. The only reader of `os.environ`; every variable is listed in the README."""

import logging
import os
import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from functools import cache
from pathlib import Path
from typing import TypeVar
from urllib.parse import parse_qs, urlsplit

from schemas.identities import Catalogue
from schemas.quotas import Quota, default_quota, stated_quota
from worker.broker.rabbitmq.queues import QUEUE_TYPES
from worker.errors import SettingError
from worker.firehose.regions import regions
from worker.logs.setup import LogFormat
from worker.queues import RUN_MESSAGES
from worker.retry_policy import RETRY_BACKOFF_MAX_SECONDS, RETRY_BACKOFF_SECONDS, RETRY_MAX
from worker.store.sentinel import SCHEME, is_sentinel, parse_sentinel_url

T = TypeVar("T")

FIREHOSE_TIMEOUT_SECONDS = 30
"""The default, and the most there may be: the length of a lease depends on it."""

VISIBILITY_MARGIN_SECONDS = 300
"""Above the longest backoff: the time that a batch takes once its wait is over."""

ENDPOINT_VARIABLES = ("AWS_ENDPOINT_URL_FIREHOSE", "AWS_ENDPOINT_URL")
"""botocore's own variables."""

PREFIX = "AUDIENCE_"
SECRETS = (
    "CELERY_BROKER_URL",
    "AUDIENCE_REDIS_URL",
    "AUDIENCE_SECRET_KEY",
    "AUDIENCE_ALERT_URLS",
    "FLOWER_BASIC_AUTH",
)
FILE_VARIABLES = {f"{name}_FILE": name for name in SECRETS}
"""The variables that name a file, by which a secret need not be in the environment, to what it holds."""

logger = logging.getLogger(__name__)


BROKER_SCHEMES = ("redis", "rediss", "redis+socket", SCHEME, "amqp", "amqps", "pyamqp")
"""Schemes of broker URLs; `redis+socket` is a Unix socket."""


@dataclass(frozen=True)
class Settings:
    """The settings of one process. URLs may hold passwords, so `repr` hides them."""

    broker_url: str = field(repr=False)
    redis_url: str = field(repr=False)
    secret_keys: tuple[str, ...] = field(repr=False)
    regions: frozenset[str]
    """Those whose streams this process delivers to."""
    rate_limits: Mapping[str, str]
    """Region to a Celery rate (`10/s`), where it is not the quota table's."""
    stream_quotas: Mapping[str, Quota]
    """By region, the most that a stream takes from all workers together, where it is not the table's."""
    retry_max: int
    retry_backoff: int
    """Seconds."""
    retry_backoff_max: int
    """Seconds."""
    visibility_timeout: int
    """Seconds."""
    run_messages: int
    """Messages of changes that a worker forwards together at most."""
    redis_wait_replicas: int
    """Replicas that must have a write before it counts; 0 where the master's word is enough."""
    firehose_timeout: int
    """Seconds."""
    has_endpoint: bool
    """Whether botocore has the endpoint of another Firehose than AWS's, such as a local one."""
    malformed_endpoint: str | None
    """The variable that is to hold that endpoint and holds no URL; None where there is none such."""
    flower_basic_auth: tuple[str, ...] = field(repr=False)
    """`user:password` of those who may do everything on the dashboard; Flower's own variable."""
    viewer_auth: tuple[str, ...] = field(repr=False)
    """`user:password` of those who may look at the dashboard and change nothing."""
    flower_control: bool
    """Whether Flower's API may run tasks and control workers."""
    alert_urls: tuple[str, ...] = field(repr=False)
    """Apprise URLs that alerts are sent to; they hold tokens."""
    log_format: LogFormat
    rabbitmq_queue_type: str | None
    """`classic` or `quorum`, for streams' queues that do not exist yet; None: the virtual host's default."""
    environment_name: str
    """Shown on every page of the dashboard: tells staging from production."""
    catalogue: Catalogue = field(repr=False, compare=False)


def read_settings(variables: Mapping[str, str]) -> Settings:
    """The settings that `variables` say. Raises `SettingError`, naming the variable."""

    variables = _with_files(variables)
    known = {"AUDIENCE_LOG_FORMAT"}

    def setting(name: str, default: T, parse: Callable[[str], T]) -> T:
        known.add(name)
        text = variables.get(name, "").strip()
        if not text:
            return default
        try:
            return parse(text)
        except ValueError as error:
            raise SettingError(f"{name}: {error}") from None

    backoff_max = setting("AUDIENCE_RETRY_BACKOFF_MAX", RETRY_BACKOFF_MAX_SECONDS, _whole(minimum=0))
    visibility_timeout = setting(
        "AUDIENCE_VISIBILITY_TIMEOUT", backoff_max + VISIBILITY_MARGIN_SECONDS, _whole(minimum=1)
    )
    if visibility_timeout <= backoff_max:
        raise SettingError(
            f"AUDIENCE_VISIBILITY_TIMEOUT: {visibility_timeout} must be above the longest backoff"
            f" ({backoff_max}, AUDIENCE_RETRY_BACKOFF_MAX), or waiting batches are delivered twice"
        )
    settings = Settings(
        broker_url=setting("CELERY_BROKER_URL", "redis://localhost:6379/0", checked_broker_url),
        redis_url=setting("AUDIENCE_REDIS_URL", "redis://localhost:6379/1", _redis_url),
        secret_keys=setting("AUDIENCE_SECRET_KEY", (), _keys),
        regions=setting("AUDIENCE_REGIONS", frozenset(regions()), _regions),
        rate_limits=setting("AUDIENCE_RATE_LIMITS", {}, _rates),
        stream_quotas=setting("AUDIENCE_STREAM_QUOTAS", {}, _quotas),
        retry_max=setting("AUDIENCE_RETRY_MAX", RETRY_MAX, _whole(minimum=0)),
        retry_backoff=setting("AUDIENCE_RETRY_BACKOFF", RETRY_BACKOFF_SECONDS, _whole(minimum=1)),
        retry_backoff_max=backoff_max,
        visibility_timeout=visibility_timeout,
        run_messages=setting("AUDIENCE_RUN_MESSAGES", RUN_MESSAGES, _whole(minimum=1, maximum=RUN_MESSAGES)),
        redis_wait_replicas=setting("AUDIENCE_REDIS_WAIT_REPLICAS", 0, _whole(minimum=0)),
        firehose_timeout=setting(
            "AUDIENCE_FIREHOSE_TIMEOUT",
            FIREHOSE_TIMEOUT_SECONDS,
            _whole(minimum=1, maximum=FIREHOSE_TIMEOUT_SECONDS),
        ),
        flower_basic_auth=setting("FLOWER_BASIC_AUTH", (), _listed),
        viewer_auth=setting("AUDIENCE_VIEWER_AUTH", (), _listed),
        flower_control=setting("AUDIENCE_FLOWER_CONTROL", False, _truth),
        alert_urls=setting("AUDIENCE_ALERT_URLS", (), _listed),
        log_format=_log_format(variables),
        rabbitmq_queue_type=setting("AUDIENCE_RABBITMQ_QUEUE_TYPE", None, _queue_type),
        environment_name=setting("AUDIENCE_ENVIRONMENT", "", str),
        has_endpoint=any(variables.get(name) for name in ENDPOINT_VARIABLES),
        malformed_endpoint=_malformed_endpoint(variables),
        catalogue=setting("AUDIENCE_IDENTITY_NAMES", Catalogue(), lambda text: Catalogue(_pairs(text))),
    )
    _warn_of_unknown(variables, known | FILE_VARIABLES.keys())
    return settings


@cache
def current_settings() -> Settings:
    """This process's settings."""
    return read_settings(os.environ)


def current_log_format() -> LogFormat:
    """The format of this process's log lines. Read by itself: to read the others may write log lines.

    Raises `SettingError`.
    """
    return _log_format(os.environ)


def allows_colours() -> bool:
    """Whether a terminal of this process may have colours. See https://no-color.org."""
    return not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def _log_format(variables: Mapping[str, str]) -> LogFormat:
    text = variables.get("AUDIENCE_LOG_FORMAT", "").strip() or LogFormat.TEXT
    try:
        return LogFormat(text)
    except ValueError:
        formats = " or ".join(LogFormat)
        raise SettingError(f"AUDIENCE_LOG_FORMAT: {text!r} is not {formats}") from None


def _with_files(variables: Mapping[str, str]) -> dict[str, str]:
    """The variables, with each secret that a `…_FILE` variable names read from its file."""
    found = dict(variables)
    for file_variable, name in FILE_VARIABLES.items():
        path = variables.get(file_variable, "").strip()
        if not path:
            continue
        if variables.get(name, "").strip():
            raise SettingError(f"{file_variable}: {name} is set, too; unset one of them")
        try:
            found[name] = Path(path).read_text("utf-8").strip()
        except OSError as error:
            raise SettingError(f"{file_variable}: {path}: {error.strerror}") from None
        except UnicodeDecodeError:
            raise SettingError(f"{file_variable}: {path}: not UTF-8") from None
        if not found[name]:
            raise SettingError(f"{file_variable}: {path}: empty")
    return found


def _warn_of_unknown(variables: Iterable[str], known: Collection[str]) -> None:
    """Warn of variables that look like ours and are read by nothing, as a misspelt one is."""
    endings = [name.removeprefix(PREFIX) for name in known if name.startswith(PREFIX)]
    for name in sorted(set(variables) - set(known)):
        if name.startswith(PREFIX):
            near = get_close_matches(name.removeprefix(PREFIX), endings, n=1)
            hint = f"; did you mean {PREFIX}{near[0]}?" if near else ""
            logger.warning("%s is not a setting%s", name, hint)


def _whole(minimum: int, maximum: int | None = None) -> Callable[[str], int]:
    bounds = f"of at least {minimum}" if maximum is None else f"from {minimum} to {maximum}"

    def parse(text: str) -> int:
        if not re.fullmatch(r"\d+", text) or not minimum <= int(text) <= (maximum or int(text)):
            raise ValueError(f"{text!r} is not a whole number {bounds}")
        return int(text)

    return parse


def _listed(text: str) -> tuple[str, ...]:
    return tuple(filter(None, (part.strip() for part in text.split(","))))


def _truth(text: str) -> bool:
    truths = {"true": True, "1": True, "false": False, "0": False}
    if text.lower() not in truths:
        raise ValueError(f"{text!r} is neither true nor false")
    return truths[text.lower()]


def _queue_type(text: str) -> str | None:
    if text.lower() not in QUEUE_TYPES:
        raise ValueError(f"{text!r} is not {' or '.join(QUEUE_TYPES)}")
    return text.lower()


def _keys(text: str) -> tuple[str, ...]:
    keys = tuple(key.strip() for key in text.split(",") if key.strip())
    for key in keys:
        if not re.fullmatch(r"[A-Za-z0-9_-]{43}=", key):
            raise ValueError(
                "not a Fernet key; make one with `audience-firehose` installed:"
                ' python -c "from cryptography.fernet import Fernet; print(Fernet.generate_key().decode())"'
            )
    return keys


def _url(text: str) -> str:
    for url in text.split(";"):
        try:
            # Asked for, as it is parsed when first used, far from here, and shown with its neighbours.
            _ = urlsplit(url).port
        except ValueError:
            problem = "not a URL; percent-encode what is special in its password"
            raise ValueError(problem) from None
    return text


def checked_broker_url(text: str) -> str:
    """The broker's URL, or several with `;` between. Raises `ValueError` where nothing is promised.

    A `rediss://` URL without `ssl_cert_reqs` gets `required`: kombu's own default verifies nothing.
    """
    _url(text)
    if is_sentinel(text):
        parse_sentinel_url(text)
        return text
    urls = text.split(";")
    if len(urls) > 1 and any(url.strip().startswith(("redis", "unix")) for url in urls):
        raise ValueError(
            "several Redis servers: kombu goes to the second while the first is away, and what waits in the"
            " first stays there; use sentinel://, or one address that moves to the new master"
        )
    return ";".join(map(_checked_broker_url, urls))


def _checked_broker_url(url: str) -> str:
    parts = urlsplit(url)
    if parts.scheme not in BROKER_SCHEMES:
        promised = ", ".join(f"{scheme}://" for scheme in BROKER_SCHEMES)
        raise ValueError(f"{parts.scheme or 'no scheme'}: nothing is promised for it; use one of {promised}")
    if parts.scheme in ("redis", "rediss"):
        _check_database(url)
    if parts.scheme == "rediss" and "ssl_cert_reqs" not in parse_qs(parts.query):
        return url + ("&" if parts.query else "?") + "ssl_cert_reqs=required"
    return url


def verifies_certificate(url: str) -> bool:
    """Whether a connection to a URL of Redis over TLS verifies the server's certificate; True without TLS."""
    asked = parse_qs(urlsplit(url).query).get("ssl_cert_reqs", ["required"])
    is_redis = url.startswith(("rediss:", f"{SCHEME}:"))
    return not is_redis or asked[-1].lower().removeprefix("cert_") == "required"


def _redis_url(text: str) -> str:
    _url(text)
    if is_sentinel(text):
        parse_sentinel_url(text)
    elif not text.startswith(("redis://", "rediss://", "unix://")):
        raise ValueError("must start with redis://, rediss://, unix:// or sentinel://")
    elif ";" in text:
        _check_nodes(text.split(";"))
    elif not text.startswith("unix://"):
        _check_database(text)
    return text


def _check_database(url: str) -> None:
    """Whether the path of a URL of Redis is a database's number, or empty: redis-py takes any other for 0."""
    path = urlsplit(url).path.strip("/")
    if path and not path.isdecimal():
        raise ValueError("the path must be the number of a database, as in redis://host:6379/0")


def _check_nodes(urls: Sequence[str]) -> None:
    """Whether several URLs may be those of nodes of one cluster, which differ in the address alone."""
    parts = [urlsplit(url.strip()) for url in urls]
    shared = {
        (part.scheme, part.path.strip("/"), part.query, part.netloc.rpartition("@")[0]) for part in parts
    }
    if parts[0].scheme == "unix" or len(shared) > 1 or not all(part.hostname for part in parts):
        raise ValueError(
            "several URLs with `;` between are nodes of one Redis Cluster: all must be redis:// or all"
            " rediss://, with the same password and parameters"
        )


def _pairs(text: str) -> dict[str, str]:
    pairs: dict[str, str] = {}
    for pair in text.split(","):
        name, equals, value = (part.strip() for part in pair.partition("="))
        if not (name and equals and value):
            raise ValueError(f"{pair!r} is not of the form name=value")
        if name in pairs:
            raise ValueError(f"{name} stands there twice")
        pairs[name] = value
    return pairs


def _regions(text: str) -> frozenset[str]:
    return _known_regions(name.strip() for name in text.split(","))


def _known_regions(names: Iterable[str]) -> frozenset[str]:
    named = frozenset(names)
    if unknown := sorted(named - set(regions())):
        raise ValueError(f"no such region: {', '.join(unknown)}")
    return named


def _by_region(text: str) -> dict[str, str]:
    pairs = _pairs(text)
    _known_regions(pairs)
    return pairs


def _rates(text: str) -> dict[str, str]:
    rates = _by_region(text)
    for region, rate in rates.items():
        if not re.fullmatch(r"\d+(\.\d+)?(/[smh])?", rate) or not float(rate.partition("/")[0]):
            raise ValueError(f"{rate!r} for {region} is not a rate such as 10/s, 600/m or 36000/h")
    return rates


def _quotas(text: str) -> dict[str, Quota]:
    stated = _by_region(text).items()
    return {region: stated_quota(default_quota(region), [quota]) for region, quota in stated}


def _malformed_endpoint(variables: Mapping[str, str]) -> str | None:
    name = next((name for name in ENDPOINT_VARIABLES if variables.get(name)), None)
    return name if name and not _is_url(variables[name]) else None


def _is_url(text: str) -> bool:
    try:
        parts = urlsplit(text)
    except ValueError:
        return False
    return parts.scheme in {"http", "https"} and bool(parts.hostname)
