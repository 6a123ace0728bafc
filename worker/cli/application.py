"""The application behind the commands."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from worker.celery import AudienceFirehose


def application() -> "AudienceFirehose":
    """The Celery application, with the state and the Firehose clients of this process."""
    # Imported when a command runs: help neither waits for it nor needs its settings.
    from worker.celery import app  # noqa: PLC0415

    return app
