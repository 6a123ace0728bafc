"""Two of Celery's log lines a task are dropped: that a task was received, and that it succeeded.

At the level DEBUG they are written. Everything else always is: retries, dead letters, errors.
"""

import logging
from typing import Any

from celery.app import trace
from celery.signals import after_setup_logger

RECEIVED_LOGGER = "celery.worker.strategy"
LOGGERS = (RECEIVED_LOGGER, "celery.app.trace")


def drop_per_task_lines() -> None:
    """Drop the two lines from now on, in this process and in those that it forks."""
    for name in LOGGERS:
        logging.getLogger(name).addFilter(is_written)
    after_setup_logger.connect(_skip_received_lines)


def _skip_received_lines(loglevel: int, **_: Any) -> None:
    """Have Celery not even make the first line. Its logger writes nothing else below WARNING."""
    if loglevel > logging.DEBUG:
        logging.getLogger(RECEIVED_LOGGER).setLevel(logging.WARNING)


def is_written(record: logging.LogRecord) -> bool:
    """Whether a record is none of the two, or the level is DEBUG."""
    if record.msg not in (trace.LOG_RECEIVED, trace.LOG_SUCCESS):
        return True
    return logging.getLogger(record.name).isEnabledFor(logging.DEBUG)
