"""The pool of processes of a worker."""

import logging

from billiard import pool as billiard_pool
from celery.concurrency import prefork

import worker.celery  # noqa: F401
from worker.consumer.start.pool import LAST_RESULT_WAIT_SECONDS, Pool


def test_the_pool_is_set_up_where_the_application_is_made():
    assert prefork.TaskPool.Pool is Pool
    wait = billiard_pool.GUARANTEE_MESSAGE_CONSUMPTION_RETRY_LIMIT
    assert wait * billiard_pool.GUARANTEE_MESSAGE_CONSUMPTION_RETRY_INTERVAL == LAST_RESULT_WAIT_SECONDS
    assert not logging.getLogger("celery.pool").isEnabledFor(logging.DEBUG)
