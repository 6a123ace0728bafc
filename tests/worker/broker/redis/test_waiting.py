"""An idle worker hears of a message of changes at once, and the message stays where it is."""

import pytest
from clock import Clock
from kombu import Connection, Queue
from link import Link
from redis import ConnectionPool

from worker.broker.redis import channel as channel_module
from worker.broker.redis.transport import Transport
from worker.broker.redis.waiting import LOST_AFTER_SECONDS, MAX_SHORT_WAITS, REST_SECONDS, Waiter
from worker.queues import CHANGES_QUEUE

FAR_FUTURE = 2**40
CHANGES = Queue(CHANGES_QUEUE, routing_key=CHANGES_QUEUE)


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def make_waiter(real_redis_url, loop, clock):
    """Make a waiter that counts how often it was notified of a message."""
    pools = []

    def make(url=real_redis_url):
        pool = ConnectionPool.from_url(url)
        pools.append(pool)
        waiter = Waiter(pool, loop, CHANGES_QUEUE, lambda: make.notices.append(waiter), monotonic=clock)
        return waiter

    make.notices = []
    yield make
    for pool in pools:
        pool.disconnect()


def run_until(loop, condition):
    overdue = loop.call_later(10, pytest.fail, "the loop went round in vain")
    while not condition():
        loop.run_once()
    overdue.cancel()


def blocked(server):
    """How many clients wait."""
    return server.info("clients")["blocked_clients"]


def test_each_waiter_is_notified_of_a_message_which_stays_where_it_is(server, loop, make_waiter):
    waiters = [make_waiter() for _ in range(3)]
    for waiter in waiters:
        waiter.begin()
    run_until(loop, lambda: blocked(server) == len(waiters))
    assert make_waiter.notices == []
    server.lpush(CHANGES_QUEUE, "first", "second")
    run_until(loop, lambda: len(make_waiter.notices) == len(waiters))
    assert server.lrange(CHANGES_QUEUE, 0, -1) == ["second", "first"]
    assert not any(waiter.is_waiting for waiter in waiters)


def test_a_waiter_is_notified_at_once_where_there_are_messages(server, loop, make_waiter):
    server.lpush(CHANGES_QUEUE, "first", "second")
    make_waiter().begin()
    run_until(loop, lambda: make_waiter.notices)
    assert server.lrange(CHANGES_QUEUE, 0, -1) == ["second", "first"]


def test_the_message_itself_is_not_sent_to_who_waits(server, loop, make_waiter):
    make_waiter().begin()
    run_until(loop, lambda: blocked(server))
    before = server.info("stats")["total_net_output_bytes"]
    server.lpush(CHANGES_QUEUE, "x" * 2**20)
    run_until(loop, lambda: make_waiter.notices)
    assert server.info("stats")["total_net_output_bytes"] - before < 2**16


def test_a_waiter_waits_again_on_the_same_connection(server, loop, make_waiter):
    waiter = make_waiter()
    for number in range(1, 4):
        waiter.begin()
        waiter.begin()
        server.lpush(CHANGES_QUEUE, "message")
        run_until(loop, lambda number=number: len(make_waiter.notices) == number)
    assert server.info("commandstats")["cmdstat_blmove"]["calls"] >= 3


def wait_in_vain(loop, waiter, notices, times=MAX_SHORT_WAITS):
    for _ in range(times):
        seen = len(notices)
        waiter.begin()
        run_until(loop, lambda seen=seen: len(notices) > seen)


def test_a_waiter_rests_where_the_server_refuses_to_wait(server, loop, make_waiter, clock):
    server.config_set("maxmemory", 1)
    waiter = make_waiter()
    wait_in_vain(loop, waiter, make_waiter.notices)
    waiter.begin()
    assert not waiter.is_waiting
    clock.advance(REST_SECONDS)
    server.config_set("maxmemory", 0)
    waiter.begin()
    assert waiter.is_waiting


def test_short_waits_after_which_a_message_is_found_are_no_refusal(server, loop, make_waiter):
    server.lpush(CHANGES_QUEUE, "message")
    waiter = make_waiter()
    for _ in range(2):
        wait_in_vain(loop, waiter, make_waiter.notices, MAX_SHORT_WAITS - 1)
        waiter.found_message()
    waiter.begin()
    assert waiter.is_waiting


def test_a_connection_that_is_lost_ends_the_wait_and_nothing_else(real_redis_url, server, loop, make_waiter):
    with Link(real_redis_url) as link:
        waiter = make_waiter(link.url)
        waiter.begin()
        run_until(loop, lambda: blocked(server))
    run_until(loop, lambda: not waiter.is_waiting)
    waiter.begin()
    assert not waiter.is_waiting


def test_a_wait_that_is_not_over_in_time_is_begun_anew_on_another_connection(
    server, loop, make_waiter, clock
):
    def waiting():
        return {client["id"] for client in server.client_list() if client["cmd"] == "blmove"}

    waiter = make_waiter()
    waiter.begin()
    run_until(loop, waiting)
    first = waiting()
    clock.advance(LOST_AFTER_SECONDS + 1)
    waiter.begin()
    run_until(loop, lambda: waiting() - first)


def test_an_idle_worker_polls_as_soon_as_a_message_of_changes_is_there(
    real_redis_url, server, loop, monkeypatch
):
    monkeypatch.setattr(channel_module, "POLL_INTERVAL_SECONDS", 0)
    monkeypatch.setattr(channel_module, "WAITING_POLL_INTERVAL_SECONDS", FAR_FUTURE)
    got = []
    with (
        Connection(real_redis_url, transport=Transport) as connection,
        connection.Consumer(CHANGES, callbacks=[lambda body, _: got.append(body)]),
    ):
        connection.register_with_event_loop(loop)
        run_until(loop, lambda: blocked(server))
        connection.Producer().publish("hello", routing_key=CHANGES_QUEUE)
        run_until(loop, lambda: got)
    assert blocked(server) == 0


def test_a_worker_that_consumes_no_changes_does_not_wait_for_them(real_redis_url, server, loop, monkeypatch):
    monkeypatch.setattr(channel_module, "POLL_INTERVAL_SECONDS", 0)
    stream = Queue("firehose.main.us-east-1.travel")
    with Connection(real_redis_url, transport=Transport) as connection, connection.Consumer(stream):
        connection.register_with_event_loop(loop)
        polls = iter(range(200))
        run_until(loop, lambda: next(polls) == 199)
        assert blocked(server) == 0


def test_a_wait_ends_with_its_channel(real_redis_url, server, loop, monkeypatch):
    monkeypatch.setattr(channel_module, "POLL_INTERVAL_SECONDS", 0)
    with Connection(real_redis_url, transport=Transport) as connection:
        with connection.Consumer(CHANGES):
            connection.register_with_event_loop(loop)
            run_until(loop, lambda: blocked(server))
        connection.default_channel.close()
        run_until(loop, lambda: not blocked(server))
