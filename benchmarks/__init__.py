"""How fast changes become records, beside plain Celery and bare boto3; and flow control in figures."""
