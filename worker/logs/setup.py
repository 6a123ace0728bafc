"""How AUDIENCE_LOG_FORMAT reaches the log lines of Celery, of Flower and of the command."""

import logging
from enum import StrEnum
from typing import Any

from celery.signals import after_setup_logger, after_setup_task_logger

from worker.logs.json_lines import JsonFormatter


class LogFormat(StrEnum):
    """The formats of log lines."""

    TEXT = "text"
    JSON = "json"


def set_up_logs(log_format: LogFormat) -> None:
    """Have this process, and the pool processes of a worker, write its log lines in a format.

    Text is what Celery and Flower write by themselves. JSON lines go to stderr even before Celery sets up its
    own handlers, and where it never does, as in the command.
    """
    if log_format is LogFormat.TEXT:
        return
    root = logging.getLogger()
    if not root.handlers:
        root.addHandler(logging.StreamHandler())
    format_as_json(root)
    logging.captureWarnings(True)
    after_setup_logger.connect(_on_logger_set_up)
    after_setup_task_logger.connect(_on_logger_set_up)


def format_as_json(logger: logging.Logger) -> None:
    """Have the handlers of a logger write JSON lines."""
    for handler in logger.handlers:
        handler.setFormatter(JsonFormatter())


def _on_logger_set_up(logger: logging.Logger, **_: Any) -> None:
    format_as_json(logger)
