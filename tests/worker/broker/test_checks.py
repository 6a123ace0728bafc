"""Which checks a broker has."""

from celery import Celery

from worker.broker.checks import check_broker
from worker.store.server_checks import Check, Outcome


def test_a_broker_that_is_neither_redis_nor_rabbitmq_is_a_finding():
    app = Celery(broker="memory://", set_as_current=False)
    (finding,) = check_broker(app, wait_replicas=0)
    assert (finding.check, finding.outcome) == (Check.CONNECTION, Outcome.FAILED)
    assert "CELERY_BROKER_URL" in finding.message
