"""The place of content that nobody may see: arguments of tasks and records hold identity values."""

from collections.abc import Callable

HIDDEN = "(not shown)"
"""Shown by Celery's events, `inspect` and Flower in place of a task's arguments."""


def repr_without_content(*names: str) -> Callable[[object], str]:
    """Return a `__repr__` that shows these attributes alone, which logs and error trackers may have."""

    def show(self: object) -> str:
        shown = "".join(f" {name}={getattr(self, name)!r}" for name in names)
        return f"<{type(self).__name__}{shown}>"

    return show
