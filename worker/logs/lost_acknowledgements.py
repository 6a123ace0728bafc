"""A message that cannot be acknowledged, as the connection to the broker is lost, is one line.

kombu logs each as critical, with a traceback. Nothing is wrong with the message: it comes back, and the
broker or its idempotency record says that it is done.
"""

import logging

LOGGER = "celery.worker.request"
BEGINNINGS = ("Couldn't ack ", "Couldn't reject ")


def shorten_lost_acknowledgements() -> None:
    """Write those lines as warnings from now on, in this process and in those that it forks."""
    logging.getLogger(LOGGER).addFilter(shorten)


def shorten(record: logging.LogRecord) -> bool:
    """Make a warning without a traceback of such a line. Always True: every line is written."""
    if str(record.msg).startswith(BEGINNINGS):
        record.levelno, record.levelname = logging.WARNING, logging.getLevelName(logging.WARNING)
        record.exc_info = None
    return True
