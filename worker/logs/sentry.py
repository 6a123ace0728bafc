"""Keeps identity values and passwords out of what Sentry sends, where an operator has installed it.

With `send_default_pii`, Sentry sends the arguments of tasks, which are changes and records, commands of Redis
with all that they store, and headers of requests. Without it, it still sends the variables of each frame of a
traceback. The failure itself stays in the event.
"""

from collections.abc import Iterator, Mapping
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, cast

from celery.signals import task_prerun

if TYPE_CHECKING:
    from sentry_sdk.types import Event

ARGUMENTS = ("args", "kwargs")
KEPT_OF_REQUESTS = ("method", "url")
STACKS = ("exception", "threads")
"""Parts of an event with a list of tracebacks."""
DATABASES = ("db", "cache")
"""The first part of the operation of spans that hold commands."""
QUERIES = "redis"
"""The category of breadcrumbs that hold commands."""
VARIABLES_OPTION = "include_local_variables"


def redact_sentry() -> None:
    """Have each event of this process redacted. Does nothing where Sentry is not installed."""
    if find_spec("sentry_sdk") is None:
        return
    from sentry_sdk.scope import add_global_event_processor  # noqa: PLC0415

    add_global_event_processor(_redact_first)
    task_prerun.connect(_redact_in_task, weak=False)


def _redact_first(event: "Event", hint: dict[str, Any]) -> "Event":
    """Redact what an event holds so far. The frames of `attach_stacktrace` come after all processors."""
    from sentry_sdk import get_client  # noqa: PLC0415

    get_client().options[VARIABLES_OPTION] = False
    return redact(event, hint)


def _redact_in_task(**_: Any) -> None:
    """Sentry adds a task's arguments after all processors but those of the current scope have run."""
    from sentry_sdk import get_current_scope  # noqa: PLC0415

    get_current_scope().add_event_processor(redact)


def redact(sent: "Event", hint: dict[str, Any]) -> "Event":
    """The event without what may hold identity values or passwords. It is changed in place."""
    event = cast(dict[str, Any], sent)
    job = event.get("extra", {}).get("celery-job")
    if isinstance(job, dict):
        for name in ARGUMENTS:
            job.pop(name, None)
    if isinstance(event.get("request"), dict):
        event["request"] = {k: v for k, v in event["request"].items() if k in KEPT_OF_REQUESTS}
    for frame in _frames(event):
        frame.pop("vars", None)
    for breadcrumb in _values(event.get("breadcrumbs")):
        if breadcrumb.get("category") == QUERIES:
            breadcrumb["message"] = _command(breadcrumb.get("message"))
            breadcrumb.pop("data", None)
    for span in event.get("spans") or ():
        if isinstance(span, dict) and str(span.get("op", "")).split(".")[0] in DATABASES:
            span["description"] = _command(span.get("description"))
            span.pop("data", None)
    return sent


def _frames(event: dict[str, Any]) -> Iterator[dict[str, Any]]:
    stacks = [event, *(value for name in STACKS for value in _values(event.get(name)))]
    for stack in stacks:
        yield from (stack.get("stacktrace") or {}).get("frames") or ()


def _values(part: Any) -> list[dict[str, Any]]:
    """A part's values, which are a list, or a mapping that holds one."""
    found = part.get("values") if isinstance(part, Mapping) else part
    return [value for value in found or () if isinstance(value, dict)]


def _command(text: Any) -> str:
    """The name of a command, without its arguments."""
    return str(text or "").partition(" ")[0]
