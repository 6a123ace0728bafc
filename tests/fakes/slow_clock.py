"""Puts a worker's clock back, as far as AWS can tell. A worker imports it with `--include slow_clock`.

Its requests are signed with the time of ten minutes ago, and it compares AWS's time with that.
"""

import os
from datetime import datetime, timedelta
from pathlib import Path
from typing import Self

BEHIND = timedelta(minutes=10)
ENVIRONMENT = {"PYTHONPATH": os.fspath(Path(__file__).parent), "SLOW_CLOCK": "1"}
"""Of the worker whose clock it is."""

if "SLOW_CLOCK" in os.environ:
    import botocore.auth

    import worker.firehose.errors

    class SlowDatetime(datetime):
        """The time of day, by the slow clock."""

        @classmethod
        def now(cls, tz=None) -> Self:
            return super().now(tz) - BEHIND

    on_time = botocore.auth.get_current_datetime
    botocore.auth.get_current_datetime = lambda *args, **options: on_time(*args, **options) - BEHIND
    worker.firehose.errors.datetime = SlowDatetime
