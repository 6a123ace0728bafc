"""The worker as a program: what it prints when it starts."""

import os
from contextlib import suppress
from typing import Any

from celery.apps import worker

from worker.config import current_settings
from worker.logs.json_lines import json_line
from worker.logs.setup import LogFormat
from worker.upstream import replace_shutdown_notice

STDERR = 2
"""Its file descriptor."""


class Worker(worker.Worker):  # type: ignore[misc]
    """Celery's worker, without a list of some forty tasks, and without a banner among JSON lines."""

    def extra_info(self) -> str:
        """The banner ends here: the tasks, one for each region, are always the same."""
        return ""

    def emit_banner(self) -> Any:
        if current_settings().log_format is LogFormat.TEXT:
            super().emit_banner()

    def install_platform_tweaks(self, worker: Any) -> None:
        super().install_platform_tweaks(worker)
        if current_settings().log_format is LogFormat.JSON:
            replace_shutdown_notice(_write_json_line)


def _write_json_line(message: str, *_: Any) -> None:
    """Celery calls this in a signal handler, where a logger's lock may be held already."""
    line = json_line(__name__, message)
    with suppress(OSError):
        os.write(STDERR, f"{line}\n".encode())
