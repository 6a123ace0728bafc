"""Log lines: their fields, their format, and how Celery and Flower are made to use it."""
