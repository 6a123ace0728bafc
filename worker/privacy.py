"""The place of content that nobody may see: arguments of tasks and records hold identity values."""

HIDDEN = "(not shown)"
"""Shown by Celery's events, `inspect` and Flower in place of a task's arguments."""


def without_content(value: object, *names: str) -> str:
    """Return a `repr` that shows these attributes alone: logs and error trackers may have it."""
    shown = "".join(f" {name}={getattr(value, name)!r}" for name in names)
    return f"<{type(value).__name__}{shown}>"
