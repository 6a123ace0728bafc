"""Log lines of a JSON object each, for AUDIENCE_LOG_FORMAT=json."""

import json
import logging
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

from celery import current_task

from worker.logs.fields import fields_of


def json_line(logger: str, message: str) -> str:
    """A line at level warning, for what is written past the loggers."""
    record = logging.LogRecord(logger, logging.WARNING, "", 0, message, None, None)
    return JsonFormatter().format(record)


class JsonFormatter(logging.Formatter):
    """Formats a record as `time`, `level`, `logger`, `process`, `message` and its fields.

    For an error it adds `error`, its class, and `traceback`, a list of `file:line function`. Its text is
    left out: the text of a library's error may quote what the library was given.
    """

    def format(self, record: logging.LogRecord) -> str:
        line = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "process": record.processName,
            "message": record.getMessage(),
            **_task_id(record),
            **fields_of(record),
            **_error(record),
        }
        return json.dumps(line, default=str)


def _task_id(record: logging.LogRecord) -> dict[str, str]:
    """The ID of the task that the line is about, where Celery knows it."""
    about = getattr(record, "data", None)
    if isinstance(about, dict) and isinstance(about.get("id"), str):
        return {"task_id": about["id"]}
    if current_task and current_task.request.id:
        return {"task_id": current_task.request.id}
    return {}


def _error(record: logging.LogRecord) -> dict[str, Any]:
    kind, _, trace = record.exc_info or (None, None, None)
    return {"error": kind.__name__, "traceback": list(_frames(trace))} if kind else {}


def _frames(trace: Any) -> Iterator[str]:
    # By hand: the traceback of a pool process is billiard's imitation, which `traceback` cannot always read.
    while trace is not None:
        code = trace.tb_frame.f_code
        yield f"{code.co_filename}:{trace.tb_lineno} {code.co_name}"
        trace = trace.tb_next
