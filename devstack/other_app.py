"""Another app. It enqueues changes by a task's name and imports nothing of this project.

Reads a list of changes from each line of its standard input, and the broker from CELERY_BROKER_URL.
"""

import json
import sys

from celery import Celery


def main() -> None:
    app = Celery("another-app")
    for line in sys.stdin:
        app.send_task("audience.forward", kwargs={"changes": json.loads(line)}, queue="audience.changes")


if __name__ == "__main__":
    main()
