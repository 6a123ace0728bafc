"""The fields that a log line may have beside its message. A closed set: none can hold an identity value.

Pass them on as `logger.warning(text, extra=log_fields(…))`. Lines of text show the message only.
"""

import logging
from collections.abc import Collection
from typing import Any

FIELDS = ("stream", "connections", "task_id", "records", "duration_seconds", "aws_request_id")


def log_fields(
    *,
    stream: str | None = None,
    connections: Collection[str] | None = None,
    task_id: str | None = None,
    records: int | None = None,
    duration_seconds: float | None = None,
    aws_request_id: str | None = None,
) -> dict[str, Any]:
    """The fields that are known. `stream` is the name of its queue."""
    found = {
        "stream": stream,
        "connections": None if connections is None else list(connections),
        "task_id": task_id,
        "records": records,
        "duration_seconds": None if duration_seconds is None else round(duration_seconds, 3),
        "aws_request_id": aws_request_id,
    }
    return {name: value for name, value in found.items() if value is not None}


def fields_of(record: logging.LogRecord) -> dict[str, Any]:
    """The fields of a record, without whatever else a library has added to it."""
    return {name: record.__dict__[name] for name in FIELDS if record.__dict__.get(name) is not None}
