"""A run of deliveries: what it delivers together, and how each of its messages ends as it would alone.

`test_deliver.py` runs each of its batches as a run, too. The broker is a real Redis.
"""

import pytest
from celery.exceptions import Reject
from kombu import Queue
from little_worker import RunWorker, forget_producers
from redis.exceptions import ConnectionError

import tasks.delivery_runs
from devstack.firehose import Answer, error, fail, refuse_once
from tasks.base import RECORDING_SECONDS
from tasks.deliver import DELIVERY_TASKS
from tasks.delivery_runs import RUN_SECONDS
from worker.broker.redis.bodies import cost_headers
from worker.broker.redis.delivery_runs import DeliveryLimit
from worker.broker.redis.reservations import Deliveries
from worker.errors import WorkerTroubleError
from worker.failures.alert_types import AlertType
from worker.firehose.groups import size_of
from worker.queues import ENQUEUED_AT_HEADER
from worker.state.idempotency import IdempotencyState

MANY = DeliveryLimit(calls=4, records=2_000, bytes=2 * 2**20)


@pytest.fixture
def worker(app, clients, monkeypatch, real_redis, real_redis_url):
    for name in ("broker_url", "broker_read_url", "broker_write_url"):
        monkeypatch.setitem(app.conf, name, real_redis_url)
    forget_producers()
    worker = RunWorker(app)
    worker.delivery_limit = MANY
    return worker


@pytest.fixture
def send(deliver):
    """Enqueue a batch for the stream with the headers of a producer task, which tell its cost."""

    def batch(*records, headers=None, **options):
        headers = cost_headers(*size_of(records)) | (headers or {})
        deliver(*records, run=False, headers=headers, **options)

    return batch


@pytest.fixture
def send_calls(send):
    """Enqueue batches of which each needs a call of its own. Their names are the IDs of their messages."""

    def calls(*names):
        for name in names:
            send(*(f"{name}{number}" for number in range(300)), task_id=name)

    return calls


def puts(firehose):
    return [call.records for call in firehose.calls if call.operation == "PutRecordBatch"]


def test_batches_that_wait_share_a_call(worker, send, firehose, services, stream):
    send("a", ["b", "c"])
    send("d")
    send("e")
    assert worker.run(stream.queue) == 1
    assert puts(firehose) == [[b"a", b"b", b"c", b"d", b"e"]]
    counts = services.counters.of(stream)
    assert (counts.delivered, counts.refused, counts.retrying) == (5, 0, 0)


def test_the_broker_forgets_what_a_run_has_delivered(worker, send, stream, real_redis):
    send("a")
    send("b")
    worker.run(stream.queue)
    assert (real_redis.hlen("unacked"), real_redis.zcard("unacked_index")) == (0, 0)


def test_a_run_keeps_no_connection_of_the_pool_during_its_calls(app, worker, send, firehose, stream):
    """Threads that kept one, and needed another one for a retry, would wait for one another."""
    held = []
    firehose.faults.append(lambda call: held.append(len(app.producer_pool._dirty)))
    send("a")
    send("b")
    worker.run(stream.queue)
    assert held == [0]


@pytest.fixture
def run_task(app, worker, stream):
    """Run the task of the next run; what it returns."""

    def run():
        task = DELIVERY_TASKS[stream.region]
        with app.connection_for_read() as connection:
            channel = connection.default_channel
            channel.limit_deliveries(lambda queue: MANY)
            got = []
            with connection.Consumer([Queue(stream.queue)], on_message=got.append):
                while not got:
                    connection.drain_events(timeout=5)
            (args, kwargs, _), message = got[0].payload, got[0]
            task.push_request(
                **message.headers, properties=message.properties, delivery_info=message.delivery_info
            )
            try:
                return task(*args, **kwargs)
            finally:
                task.pop_request()

    return run


def test_a_run_says_its_numbers_and_nothing_else(run_task, send):
    send("secretive", task_id="one")
    send("secretive", "secretive", task_id="other")
    assert run_task() == {"messages": 2, "records": 3, "calls": 1}


def test_a_run_tells_its_worker_of_the_worker_s_trouble(run_task, send, firehose):
    firehose.faults.append(fail(error("RequestTimeTooSkewed", 403), times=1))
    send("a")
    send("b")
    with pytest.raises(Reject) as raised:
        run_task()
    assert isinstance(raised.value.reason, WorkerTroubleError)
    assert raised.value.requeue


def test_another_worker_delivers_the_run_of_a_worker_in_trouble(worker, send, firehose, services, stream):
    firehose.faults.append(fail(error("RequestTimeTooSkewed", 403), times=1))
    send("a")
    send("b")
    worker.run_one(stream.queue)
    assert services.counters.of(stream).refused == 0
    worker.run(stream.queue)
    assert puts(firehose) == [[b"a", b"b"]] * 2


def test_a_run_makes_as_many_calls_as_its_batches_need(worker, send, send_calls, firehose, stream):
    send_calls("a", "b", "c")
    send("last")
    assert worker.run(stream.queue) == 1
    assert [len(records) for records in puts(firehose)] == [300, 300, 301]


def test_of_a_call_that_is_refused_in_part_each_message_sends_its_own_refused_records_again(
    worker, send, firehose, services, stream
):
    firehose.faults.append(refuse_once(b"b"))
    send("a", "b")
    send("c", task_id="taken")
    assert worker.run_one(stream.queue)
    assert [call["records"] for call in worker.calls(stream.queue)] == [["b"]]
    assert services.idempotency.is_completed("taken", 0)
    worker.run(stream.queue)
    assert puts(firehose) == [[b"a", b"b", b"c"], [b"b"]]
    counts = services.counters.of(stream)
    assert (counts.delivered, counts.refused, counts.retrying) == (3, 1, 0)


@pytest.fixture
def state_that_goes_away(firehose, redis_server):
    """Firehose refuses all of the first call, and the state is away from then on."""

    def refuse(call):
        redis_server.connected = False
        firehose.faults.clear()
        return Answer(refused=dict.fromkeys(range(len(call.records)), "Code"))

    firehose.faults.append(refuse)
    return redis_server


@pytest.fixture
def pauses(services, clock, monkeypatch):
    """The pauses of tasks, in seconds. What is tried in between takes long."""
    pauses = []

    def sleep(seconds):
        pauses.append(seconds)
        clock.advance(seconds + 5)

    monkeypatch.setattr(services, "sleep", sleep)
    return pauses


def test_a_state_that_is_away_is_waited_for_once_and_not_by_each_message_of_a_call(
    worker, send, stream, state_that_goes_away, pauses
):
    for record in "abc":
        send(record)
    worker.run_one(stream.queue)
    assert len(pauses) == RECORDING_SECONDS / 6
    state_that_goes_away.connected = True
    worker.run(stream.queue)
    assert worker.app.services.counters.of(stream).delivered == 3
    assert not worker.app.services.has_given_up_counters


def test_the_whole_call_tells_whether_the_breaker_opens(worker, send, firehose, services, stream):
    for refused in (1, 2):
        firehose.faults[:] = [
            lambda call, refused=refused: Answer(refused=dict.fromkeys(range(refused), "Code"))
        ]
        for record in "abc":
            send(record)
        worker.run_one(stream.queue)
        assert bool(services.circuit_breakers.get(stream)) is (refused == 2)
        firehose.faults.clear()
        worker.run(stream.queue)


def test_a_call_that_is_accepted_by_half_closes_the_breaker(worker, send, firehose, services, stream):
    services.circuit_breakers.record_failure(stream, "Retry Limit Exceeded", first=1, longest=9)
    firehose.faults.append(refuse_once(b"a"))
    send("a")
    send("b")
    worker.run_one(stream.queue)
    assert services.circuit_breakers.get(stream) is None


def test_a_call_that_fails_is_one_failure_of_the_stream_and_an_attempt_of_each_message(
    worker, send, firehose, services, stream
):
    firehose.faults.append(fail(error("InternalFailure", 500), times=1))
    send("a", task_id="one")
    send("b", task_id="other")
    worker.run_one(stream.queue)
    assert {
        message.headers["id"]: message.headers["retries"] for message in worker.waiting(stream.queue)
    } == {
        "one": 1,
        "other": 1,
    }
    assert services.circuit_breakers.get(stream).failures == 1
    assert services.counters.of(stream).refused == 2
    worker.run(stream.queue)
    assert puts(firehose) == [[b"a", b"b"], [b"a"], [b"b"]]


def test_a_retry_is_in_no_run(worker, send, firehose, stream):
    firehose.faults.append(fail(error("InternalFailure", 500), times=1))
    send("a")
    send("b")
    worker.run_one(stream.queue)
    send("c")
    assert worker.run(stream.queue) == 3


@pytest.mark.usefixtures("few_retries")
def test_when_retries_are_spent_each_message_of_a_run_is_a_dead_letter(
    worker, send, firehose, services, stream
):
    firehose.faults.append(fail(error("InternalFailure", 500), times=100))
    send("a", task_id="one")
    send("b", task_id="other")
    worker.run(stream.queue)
    letters = services.dead_letters.all()
    assert {(letter.id, letter.attempts, letter.records) for letter in letters} == {
        ("one", 4, 1),
        ("other", 4, 1),
    }


def test_what_firehose_refuses_for_good_is_found_out_by_each_message_alone(
    worker, send, firehose, services, stream
):
    firehose.faults.append(fail(error("ValidationException", 400), times=2))
    send("a", task_id="one")
    send("b", task_id="other")
    worker.run_one(stream.queue)
    assert services.circuit_breakers.get(stream) is None
    worker.run_one(stream.queue)
    (letter,) = services.dead_letters.all()
    assert (letter.id, letter.type) == ("one", AlertType.INVALID_REQUEST)
    assert services.circuit_breakers.get(stream).is_paused
    assert len(worker.waiting(stream.queue)) == 1


def test_a_run_ends_with_the_call_that_is_not_taken_whole(worker, send_calls, firehose, stream):
    firehose.faults.append(fail(error("InternalFailure", 500), times=1))
    send_calls("a", "b", "c")
    worker.run_one(stream.queue)
    assert len(puts(firehose)) == 1
    first = [call["records"][0] for call in worker.calls(stream.queue)]
    assert first[:2] == ["b0", "c0"]


@pytest.fixture
def pause_at_first_call(firehose, services, stream):
    """An operator pauses the stream while Firehose takes the first call."""
    firehose.faults.append(lambda call: services.circuit_breakers.pause(stream, "operator"))


def test_a_run_ends_when_the_breaker_opens_between_its_calls(
    worker, send_calls, pause_at_first_call, firehose, stream
):
    send_calls("a", "b", "c")
    worker.run_one(stream.queue)
    assert len(puts(firehose)) == 1
    assert [call["records"][0] for call in worker.calls(stream.queue)] == ["b0", "c0"]


def test_a_run_makes_no_further_call_when_its_time_is_up(worker, send_calls, firehose, clock, stream):
    firehose.faults.append(lambda call: clock.advance(RUN_SECONDS))
    send_calls("a", "b", "c")
    worker.run_one(stream.queue)
    assert len(puts(firehose)) == 1
    assert len(worker.calls(stream.queue)) == 2


@pytest.fixture
def second_call_in_trouble(firehose):
    """Firehose has the worker's clock be wrong at the second call, and at no other."""
    skewed = error("RequestTimeTooSkewed", 403)
    firehose.faults.append(lambda call: skewed if len(puts(firehose)) == 2 else None)


def test_a_trouble_between_calls_leaves_what_was_delivered_to_no_other_worker(
    worker, send_calls, second_call_in_trouble, services, stream
):
    send_calls("a", "b", "c")
    worker.run_one(stream.queue)
    assert [call["records"][0] for call in worker.calls(stream.queue)] == ["b0", "c0"]
    assert services.counters.of(stream).delivered == 300


@pytest.fixture
def first_end_lost(monkeypatch):
    """The broker is not reached when the first run ends its messages."""
    end = Deliveries.end
    failures = [ConnectionError]

    def lose_first(deliveries, tags):
        if tags and failures:
            raise failures.pop()
        end(deliveries, tags)

    monkeypatch.setattr(Deliveries, "end", lose_first)


def test_what_was_delivered_is_not_delivered_again_if_the_broker_could_not_be_told(
    worker, send_calls, first_end_lost, firehose, stream
):
    send_calls("a", "b")
    worker.run_one(stream.queue)
    assert len(worker.waiting(stream.queue)) == 2
    worker.run(stream.queue)
    assert [records[0] for records in puts(firehose)] == [b"a0", b"b0"]
    assert worker.waiting(stream.queue) == []


def test_no_lease_keeps_others_from_what_a_run_leaves(
    worker, send_calls, second_call_in_trouble, services, stream
):
    send_calls("a", "b", "c")
    worker.run_one(stream.queue)
    states = services.idempotency.acquire_all(["a", "b", "c"], 0, "next")
    assert states == [IdempotencyState.COMPLETED, IdempotencyState.ACQUIRED, IdempotencyState.ACQUIRED]


@pytest.fixture
def states_when_requeued(monkeypatch, services):
    """What another worker finds of `b` and `c` when a run requeues something."""
    requeue = Deliveries.requeue
    states = []

    def acquire_and_requeue(deliveries, tags, **options):
        if tags:
            states.extend(services.idempotency.acquire_all(["b", "c"], 0, "next"))
        requeue(deliveries, tags, **options)

    monkeypatch.setattr(Deliveries, "requeue", acquire_and_requeue)
    return states


def test_what_a_run_leaves_has_no_lease_when_it_is_requeued(
    worker, send_calls, pause_at_first_call, states_when_requeued, stream
):
    send_calls("a", "b", "c")
    worker.run_one(stream.queue)
    assert states_when_requeued == [IdempotencyState.ACQUIRED] * 2


def test_a_message_that_was_delivered_before_is_not_delivered_again(worker, send, firehose, services, stream):
    services.idempotency.complete("done", 0)
    send("a", task_id="done")
    send("b")
    worker.run(stream.queue)
    assert puts(firehose) == [[b"b"]]


def test_a_message_that_another_worker_has_holds_up_none_of_the_others(
    worker, send, firehose, services, stream
):
    assert services.idempotency.acquire("taken", 0, "other") is IdempotencyState.ACQUIRED
    send("a", task_id="taken")
    send("b")
    worker.run_one(stream.queue)
    assert puts(firehose) == [[b"b"]]
    services.idempotency.release("taken", 0, "other")
    worker.run(stream.queue)
    assert puts(firehose) == [[b"b"], [b"a"]]


def test_a_chain_and_what_is_no_delivery_hold_up_none_of_the_others(worker, send, firehose, services, stream):
    send("a")
    send("b", then=[["c"]])
    worker.send(stream.task, {"records": "secretive"}, queue=stream.queue, headers=cost_headers(1, 1))
    worker.send("audience.forward", {"changes": []}, queue=stream.queue, headers=cost_headers(1, 1))
    send("d")
    worker.run(stream.queue)
    assert puts(firehose) == [[b"a", b"d"], [b"b"], [b"c"]]
    assert len(services.dead_letters.all()) == 1


def test_a_batch_of_another_stream_is_delivered_to_its_own(worker, send, firehose, connect, stream):
    firehose.create("other")
    other = connect(audience_id=2, name="other")
    send("a")
    call = {
        "configuration": other.configuration,
        "delivery_stream_name": other.name,
        "records": ["b"],
        "connection_ids": ["2-a"],
        "audience_ids": [2],
    }
    worker.send(other.task, call, queue=stream.queue, headers=cost_headers(1, 1))
    worker.run(stream.queue)
    assert {(call.stream_name, *call.records) for call in firehose.calls} == {
        ("travel", b"a"),
        ("other", b"b"),
    }


def test_a_lost_process_has_each_message_of_its_run_run_alone(worker, send, firehose, stream):
    send("a")
    send("b")
    worker.die_over_one(stream.queue)
    assert worker.run(stream.queue) == 2
    assert puts(firehose) == [[b"a"], [b"b"]]


def test_what_a_lost_process_was_delivering_is_run_at_once(worker, send, services, stream):
    send("a", task_id="one")
    send("b", task_id="other")
    worker.die_over_one(
        stream.queue, lambda run_id: services.idempotency.acquire_all(["one", "other"], 0, run_id)
    )
    assert services.idempotency.acquire_all(["one", "other"], 0, "next") == [IdempotencyState.ACQUIRED] * 2


def test_the_lease_of_another_worker_outlives_a_lost_process(worker, send, services, stream):
    services.idempotency.acquire("one", 0, "another")
    send("a", task_id="one")
    send("b", task_id="other")
    worker.die_over_one(stream.queue)
    assert services.idempotency.acquire("one", 0, "next") is IdempotencyState.IN_PROGRESS


def test_a_defect_in_a_run_has_each_message_run_alone(worker, send, firehose, stream, monkeypatch):
    def defect(*_):
        raise ValueError("secretive")

    monkeypatch.setattr(tasks.delivery_runs.DeliveryRun, "_acquire", defect)
    send("a")
    send("b")
    worker.run(stream.queue)
    assert puts(firehose) == [[b"a"], [b"b"]]


def test_the_message_that_waited_longest_tells_how_long_a_call_took(worker, send, services, stream):
    send("a", headers={ENQUEUED_AT_HEADER: services.clock() - 100})
    send("b", headers={ENQUEUED_AT_HEADER: services.clock() - 1})
    worker.run(stream.queue)
    assert services.history.of([stream])[stream].quantile_seconds(0.5) >= 100


def test_a_run_makes_no_batch_calls_where_the_policy_allows_only_put_record(
    app, worker, send, firehose, stream
):
    app.put_record_only.add(stream)
    send("a")
    send("b")
    worker.run(stream.queue)
    assert [call.operation for call in firehose.calls] == ["PutRecord", "PutRecord"]


def test_a_message_that_waits_twice_is_delivered_and_counted_once(worker, send, firehose, services, stream):
    send("a", task_id="twice")
    send("a", task_id="twice")
    send("b")
    worker.run(stream.queue)
    assert puts(firehose) == [[b"a", b"b"]]
    assert services.counters.of(stream).delivered == 2


def test_a_message_that_waits_twice_is_in_one_of_a_run_s_calls(
    worker, send_calls, firehose, services, stream
):
    send_calls("twice", "twice")
    worker.run(stream.queue)
    assert len(puts(firehose)) == 1
    assert services.counters.of(stream).delivered == 300


def test_a_message_that_waits_twice_is_retried_once(worker, send, firehose, services, stream):
    firehose.faults.append(fail(error("InternalFailure", 500), times=1))
    send("a", task_id="twice")
    send("a", task_id="twice")
    worker.run(stream.queue)
    assert puts(firehose) == [[b"a"], [b"a"]]
    assert (services.counters.of(stream).delivered, services.counters.of(stream).retrying) == (1, 0)
