"""The tasks. Imported by nobody: Celery loads them by name, as `celeryconfig` says."""
