"""Celery's lines that repeat one of ours are dropped: a trouble is one line.

Our tasks log why a message waits for a retry or is requeued. Celery logs the same again, with tracebacks.
"""

import logging

from celery.app import trace

LOGGER = "celery.app.trace"
REPEATED = (trace.LOG_RETRY.strip(), trace.LOG_REJECTED.strip())


def drop_repetitions() -> None:
    """Drop the lines from now on, in this process and in those that it forks."""
    logging.getLogger(LOGGER).addFilter(is_new)


def is_new(record: logging.LogRecord) -> bool:
    """Whether a record repeats none of our lines."""
    return str(record.msg).strip() not in REPEATED
