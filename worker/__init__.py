"""The Celery application and everything a worker, the dashboard and the command need to run."""
