"""A half-open Redis, or one that accepts no write: a worker comes back by itself, and stops on SIGTERM."""

import os
import signal

import pytest
from link import Link
from waiting import eventually

from worker.queues import CHANGES_QUEUE

LOST = "Connection to broker lost"
CUSTOMERS = ["first", "second", "third"]


@pytest.fixture
def link(stack):
    with Link(stack.redis_url) as link:
        yield link


def through(link):
    """The settings of a worker that reaches broker and state by a link."""
    return {"CELERY_BROKER_URL": f"{link.url}/0", "AUDIENCE_REDIS_URL": f"{link.url}/1"}


def test_a_worker_is_back_when_a_half_open_link_heals(stack, link):
    audience = stack.audience()
    with stack.worker("--concurrency", "2", env=through(link)) as worker:
        stack.send(*audience.added("before"))
        eventually(lambda: audience.customers() == ["before"])
        link.drop()
        stack.send(*audience.added("meanwhile"))
        eventually(lambda: LOST in worker.output())
        link.heal()
        eventually(lambda: "meanwhile" in audience.customers())
        assert set(audience.customers()) == {"before", "meanwhile"}


def test_what_was_reserved_by_a_poll_whose_answer_is_lost_comes_back_with_the_worker(stack, link):
    audience, broker = stack.audience(), stack.broker_client()
    env = through(link) | {"AUDIENCE_VISIBILITY_TIMEOUT": "3600"}
    with stack.worker("--concurrency", "2", env=env) as worker:
        os.kill(worker.pid, signal.SIGSTOP)
        # The poll's: without another command's answer the worker might never poll.
        link.drop_answers_from(CHANGES_QUEUE)
        for customer in CUSTOMERS:
            stack.send(*audience.added(customer))
        os.kill(worker.pid, signal.SIGCONT)
        eventually(lambda: broker.hlen("unacked"))
        eventually(lambda: LOST in worker.output())
        link.heal()
        eventually(lambda: audience.customers() == CUSTOMERS)


def test_a_worker_stops_on_sigterm_while_its_link_is_half_open(stack, link):
    with stack.worker("--concurrency", "2", env=through(link)) as worker:
        link.drop()
        worker.terminate()
        eventually(lambda: not worker.is_running)


def test_a_worker_goes_on_after_its_redis_has_accepted_no_write(stack):
    audience = stack.audience()
    server = stack.services.redis
    with stack.worker("--concurrency", "2") as worker:
        stack.send(*audience.added("before"))
        eventually(lambda: audience.customers() == ["before"])
        server.config_set("min-replicas-to-write", 1)
        eventually(lambda: LOST in worker.output())
        server.config_set("min-replicas-to-write", 0)
        stack.send(*audience.added("after"))
        eventually(lambda: audience.customers() == ["before", "after"])
        assert worker.is_running
        (alert,) = eventually(stack.services.alerts.all)
        assert (alert.type, alert.error_code) == ("Worker Trouble", "NOREPLICAS")
