"""The placeholder for content that nobody may see: arguments of tasks hold identity values."""

HIDDEN = "(not shown)"
"""Shown by Celery's events, `inspect` and Flower in place of a task's arguments."""
