"""Another app on the same broker, which tells everybody what its tasks carry."""

import os

from celery import Celery

app = Celery("talkative", broker=os.environ["CELERY_BROKER_URL"], task_send_sent_event=True)


@app.task(name="talkative.remember")
def remember(**kwargs):
    """Never runs: it is sent with a countdown."""
