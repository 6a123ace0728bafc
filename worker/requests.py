"""A task request that keeps what it carries to itself.

Celery shows a task's arguments in its events, in `inspect active` and so in Flower, and
the text of them comes from whoever sent the message. Ours hold identity values.
"""

import logging
from typing import Any

from celery.worker.request import Request

HIDDEN = "(not shown)"

# At DEBUG, Celery writes down the messages that it hands to its pool.
logging.getLogger("celery.pool").setLevel(logging.INFO)


class DiscreetRequest(Request):  # type: ignore[misc]
    """Says which task it is, and nothing of its arguments."""

    def __init__(self, message: Any, **options: Any) -> None:
        super().__init__(message, **options)
        self._argsrepr = self._kwargsrepr = HIDDEN
        self._args = self._kwargs = None
        # The pool process decodes the body itself: sending it the arguments once more is waste.
        self._request_dict.update(argsrepr=HIDDEN, kwargsrepr=HIDDEN, args=(), kwargs={})
