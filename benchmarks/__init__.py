"""How fast changes become records: this project beside plain Celery and bare boto3."""
