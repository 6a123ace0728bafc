"""From a batch to Firehose: what is sent again, what is given up, and what is never sent twice."""

import pytest
from celery.canvas import Signature
from kombu.exceptions import OperationalError
from little_worker import DeliveryRunWorker, LittleWorker, forget_producers
from redis.exceptions import RedisError

import tasks.base
import tasks.firehose_calls
from devstack.firehose import Answer, error, fail, refuse_once
from tasks.deliver import DELIVERY_TASKS, MALFORMED_ATTEMPTS
from tasks.delivery_failures import WARN_AFTER_ATTEMPTS
from worker.celery import app as real_app
from worker.config import read_settings
from worker.consumer.request import MAX_LOST_PROCESSES
from worker.errors import CredentialsError
from worker.failures.alert_types import AlertType
from worker.firehose.clients import Clients
from worker.firehose.regions import rate_limits, regions
from worker.flow.admission import Cost
from worker.queues import ENQUEUED_AT_HEADER, Stream
from worker.retry_policy import REQUEUE_PAUSE_SECONDS
from worker.state.idempotency import COMPLETED_ATTEMPTS

DEFAULTS = read_settings({})


@pytest.fixture(params=["alone", "in runs"])
def worker(request, app, clients, monkeypatch):
    """A worker that runs each delivery message alone, or in runs as Redis lets it."""
    if request.param == "alone":
        return LittleWorker(app)
    request.getfixturevalue("real_redis")
    for name in ("broker_url", "broker_read_url", "broker_write_url"):
        monkeypatch.setitem(app.conf, name, request.getfixturevalue("real_redis_url"))
    forget_producers()
    return DeliveryRunWorker(app)


ALONE = pytest.mark.parametrize("worker", ["alone"], indirect=True)
"""What no run does: it is no probe, and what it cannot deliver is run alone. See `test_delivery_runs.py`."""


def puts(firehose):
    return [call.records for call in firehose.calls if call.operation == "PutRecordBatch"]


def test_a_batch_is_one_request_of_its_records_in_their_order(deliver, firehose):
    deliver("a\n", ["b\n", "c\n"])
    assert puts(firehose) == [[b"a\n", b"b\n", b"c\n"]]


def test_only_refused_records_are_sent_again(deliver, firehose, services, stream):
    firehose.faults.append(refuse_once(b"b"))
    deliver("a", "b", "c")
    assert puts(firehose) == [[b"a", b"b", b"c"], [b"b"]]
    counts = services.counters.of(stream)
    assert (counts.delivered, counts.refused, counts.retrying) == (3, 1, 0)


def test_of_a_pair_whose_removal_is_refused_both_are_sent_again(deliver, firehose):
    firehose.faults.append(refuse_once(b"removal"))
    deliver("a", ["removal", "addition"])
    assert puts(firehose) == [[b"a", b"removal", b"addition"], [b"removal", b"addition"]]


def test_of_a_pair_whose_addition_is_refused_only_that_is_sent_again(deliver, firehose):
    firehose.faults.append(refuse_once(b"addition"))
    deliver("a", ["removal", "addition"])
    assert puts(firehose) == [[b"a", b"removal", b"addition"], [b"addition"]]


def test_a_batch_that_may_only_follow_is_sent_when_all_before_it_was_accepted(
    deliver, firehose, services, stream
):
    firehose.faults.append(refuse_once(b"b"))
    deliver("a", "b", then=[[["c", "d"]], ["e"]])
    assert puts(firehose) == [[b"a", b"b"], [b"b"], [b"c", b"d"], [b"e"]]
    counts = services.counters.of(stream)
    assert (counts.delivered, counts.refused, counts.retrying) == (5, 1, 0)


def test_a_batch_that_is_delivered_again_has_what_follows_it_delivered_again(
    worker, deliver, firehose, redis
):
    for _ in range(2):
        deliver("a", then=[["b"]], task_id="one")
        redis.delete(*redis.keys(f"{COMPLETED_ATTEMPTS}:one:*"))
    assert puts(firehose) == [[b"a"], [b"b"]] * 2


@pytest.mark.usefixtures("few_retries")
def test_a_chain_that_is_given_up_is_one_dead_letter_and_replayed_in_its_order(
    worker, deliver, firehose, services, stream
):
    firehose.faults.append(fail(error("InternalFailure", 500), times=4))
    deliver("a", then=[["b", "c"]])
    (letter,) = services.dead_letters.all()
    assert letter.records == 3
    message = services.dead_letters.message(letter)
    worker.send(message.task, message.kwargs, queue=message.queue, task_id=letter.replay_id)
    worker.run(stream.queue)
    assert firehose.accepted("travel") == [b"a", b"b", b"c"]


def test_the_bytes_that_aws_bills_are_counted(deliver, firehose, services, stream):
    firehose.faults.append(refuse_once(b"c"))
    deliver("a\n" * 100, "b\n", "c\n")
    counts = services.counters.of(stream)
    assert (counts.delivered, counts.billed_bytes, counts.saved_bytes) == (102, 3 * 5_120, 99 * 5_120)


def test_records_that_wait_for_a_retry_are_counted(worker, deliver, firehose, services, stream):
    firehose.faults.append(refuse_once(b"b"))
    deliver("a", "b", run=False)
    worker.run_one(stream.queue)
    assert services.counters.of(stream).retrying == 1
    worker.run_one(stream.queue)
    assert services.counters.of(stream).retrying == 0


class RetryEndsFirst:
    """In the place of the broker's marks: as soon as the retry is sent, another worker has run it."""

    are_needed = False

    def __init__(self, services):
        self._services = services

    def header(self, attempt):
        task_id, _, retries = attempt.rpartition(":")
        self._services.idempotency.complete(task_id, int(retries) + 1)
        return {}


@pytest.fixture
def retry_ends_first(services, monkeypatch):
    monkeypatch.setitem(real_app.__dict__, "handovers", RetryEndsFirst(services))


@pytest.mark.usefixtures("retry_ends_first")
def test_a_retry_that_ends_before_its_attempt_is_recorded_waits_no_more(
    worker, deliver, firehose, services, stream
):
    firehose.faults.append(refuse_once(b"b"))
    deliver("a", "b", run=False)
    worker.run_one(stream.queue)
    assert services.counters.of(stream).retrying == 0


def test_after_a_short_outage_all_is_delivered_without_an_alert(deliver, firehose, services):
    firehose.faults.append(fail(error("InternalFailure", 500), times=WARN_AFTER_ATTEMPTS - 1))
    deliver("a", "b")
    assert puts(firehose)[-1] == [b"a", b"b"]
    assert not services.alerts.all()
    assert not services.dead_letters.all()


def test_a_stream_that_keeps_failing_raises_one_warning(deliver, firehose, services):
    firehose.faults.append(fail(error("InternalFailure", 500), times=10))
    deliver("a")
    (alert,) = services.alerts.all()
    assert (alert.type, alert.severity, alert.attempts) == (
        "500 - Internal Server Error",
        "warning",
        WARN_AFTER_ATTEMPTS,
    )
    assert (alert.delivery_stream_name, alert.connection_ids, alert.audience_ids) == ("travel", ["1-a"], [1])


@pytest.mark.usefixtures("few_retries")
def test_when_retries_are_spent_the_undelivered_are_a_dead_letter(deliver, firehose, services, stream):
    def refuse_unlucky(call):
        return refuse_once(b"unlucky")(call)

    firehose.faults.append(refuse_unlucky)
    deliver("lucky", "unlucky", task_id="one")
    assert len(puts(firehose)) == 1 + 3
    (letter,) = services.dead_letters.all()
    assert (letter.id, letter.type, letter.attempts, letter.records) == ("one", "Retry Limit Exceeded", 4, 1)
    assert letter.message.startswith("given up after 4 attempts; the last failure: ")
    assert letter.message.endswith("; replay the dead letter once the stream takes records")
    assert "tried again" not in letter.message
    assert letter.error_code == "ServiceUnavailableException"
    message = services.dead_letters.message(letter)
    assert (message.task, message.queue) == (stream.task, stream.queue)
    assert message.kwargs["records"] == ["unlucky"]
    (fatal,) = [alert for alert in services.alerts.all() if alert.severity == "fatal"]
    assert (fatal.type, fatal.dead_letter_id) == ("Retry Limit Exceeded", "one")
    assert services.counters.of(stream).retrying == 0
    # It takes nothing of late: it is tried again, but closed to none but a probe until then.
    assert services.circuit_breakers.get(stream).until is not None


@pytest.mark.usefixtures("few_retries")
def test_a_replayed_dead_letter_has_all_retries_again(worker, deliver, firehose, services, stream):
    firehose.faults.append(fail(error("InternalFailure", 500), times=4))
    deliver("a")
    (letter,) = services.dead_letters.all()
    message = services.dead_letters.message(letter)
    worker.send(message.task, message.kwargs, queue=message.queue, task_id=letter.replay_id)
    services.dead_letters.remove(letter)
    worker.run(stream.queue)
    assert firehose.accepted("travel") == [b"a"]


PERMANENT = {
    "ResourceNotFoundException": "Stream Not Found",
    "AccessDeniedException": "Access Denied",
    "UnrecognizedClientException": "Invalid Credentials",
    "ValidationException": "Invalid Request",
}


@ALONE
@pytest.mark.parametrize(("code", "alert_type"), PERMANENT.items())
def test_a_permanent_refusal_is_not_retried_and_pauses_the_stream(
    deliver, firehose, services, code, alert_type
):
    firehose.faults.append(fail(error(code, message="secretive")))
    deliver("a", ["b", "c"])
    assert len(puts(firehose)) == 1
    (letter,), (alert,) = services.dead_letters.all(), services.alerts.all()
    assert (alert.type, alert.severity, alert.error_code, alert.records) == (alert_type, "fatal", code, 3)
    assert services.dead_letters.message(letter).kwargs["records"] == ["a", ["b", "c"]]
    assert services.circuit_breakers.get(letter.stream).reason == alert_type
    may_be_shown = code in {"ResourceNotFoundException", "AccessDeniedException"}
    assert ("secretive" in repr((letter, alert))) is may_be_shown


def test_a_batch_of_a_paused_stream_in_another_queue_is_requeued_there(
    worker, deliver, firehose, services, stream
):
    services.circuit_breakers.pause(stream, "operator")
    deliver("a", run=False, queue="elsewhere")
    worker.run_one("elsewhere")
    assert len(worker.waiting("elsewhere")) == 1
    assert not puts(firehose)
    services.circuit_breakers.resume(stream)
    worker.run("elsewhere")
    assert puts(firehose) == [[b"a"]]


def test_a_failure_opens_the_breaker_and_a_success_closes_it(worker, deliver, firehose, services, stream):
    firehose.faults.append(fail(error("InternalFailure", 500), times=2))
    deliver("a", run=False)
    worker.run_one(stream.queue)
    breaker = services.circuit_breakers.get(stream)
    assert (breaker.reason, breaker.failures) == ("500 - Internal Server Error", 1)
    assert services.clock() < breaker.until <= services.clock() + 1
    worker.run(stream.queue)
    assert firehose.accepted("travel") == [b"a"]
    assert services.circuit_breakers.get(stream) is None


def test_a_probe_that_is_half_accepted_closes_the_breaker(worker, deliver, firehose, services, stream):
    firehose.faults.append(fail(error("InternalFailure", 500), times=1))
    deliver("a", "unlucky", run=False)
    worker.run_one(stream.queue)
    assert services.circuit_breakers.get(stream)
    firehose.faults.append(refuse_once(b"unlucky"))
    worker.run_one(stream.queue)
    assert firehose.accepted("travel") == [b"a"]
    assert services.circuit_breakers.get(stream) is None


@pytest.fixture
def probe(services, stream, clock):
    """Have a message be the one that probes the stream after it failed, or find that it may not be."""

    def begin(task_id):
        if not services.circuit_breakers.get(stream):
            services.circuit_breakers.record_failure(stream, "500", first=1, longest=1)
            clock.advance(1)
        quota = services.registry.snapshot().quota(stream)
        return services.admission.acquire(stream, Cost(1, 1), quota, message_id=task_id).is_probe

    return begin


@pytest.fixture
def run_one(worker, stream):
    """Run the stream's next message."""
    return lambda: worker.run_one(stream.queue)


@pytest.fixture
def failures(services, stream):
    """How often the stream has failed in a row."""
    return lambda: services.circuit_breakers.get(stream).failures


@ALONE
def test_only_the_probe_s_failure_counts(run_one, probe, deliver, firehose, failures):
    firehose.faults.append(fail(error("InternalFailure", 500), times=2))
    deliver("a", run=False, task_id="late")
    deliver("b", run=False, task_id="one")
    assert probe("one")
    run_one()
    assert failures() == 1
    run_one()
    assert failures() == 2


@ALONE
def test_while_another_copy_of_a_probe_is_run_another_batch_may_probe(
    worker, probe, deliver, services, stream
):
    services.idempotency.acquire("one", 0, "a worker that was killed")
    assert probe("one")
    deliver("a", run=False, task_id="one")
    worker.run_one(stream.queue)
    assert len(worker.waiting(stream.queue)) == 1
    assert probe("two")


@ALONE
def test_after_a_probe_that_had_been_delivered_before_another_batch_may_probe(
    probe, deliver, firehose, stream
):
    deliver("a", task_id="one")
    assert probe("one")
    deliver("a", task_id="one")
    assert len(puts(firehose)) == 1
    assert probe("two")


def test_after_a_probe_that_was_no_delivery_another_batch_may_probe(worker, probe, stream, services):
    assert probe("one")
    worker.send(stream.task, {}, queue=stream.queue, task_id="one")
    worker.run(stream.queue)
    assert len(services.dead_letters.all()) == 1
    assert probe("two")


@ALONE
def test_a_message_with_half_a_surrogate_pair_is_a_dead_letter_and_its_stream_flows(
    worker, deliver, firehose, services, stream
):
    call = {
        "configuration": stream.configuration,
        "delivery_stream_name": stream.name,
        "records": ["good\n", "half of a pair: \ud800\n"],
        "connection_ids": [],
        "audience_ids": [],
    }
    worker.send(stream.task, call, queue=stream.queue, serializer="json")
    worker.run(stream.queue)
    (letter,) = services.dead_letters.all()
    assert services.dead_letters.message(letter).kwargs == call
    assert not services.circuit_breakers.all()
    deliver("a")
    assert len(puts(firehose)) == 1


@ALONE
def test_after_a_probe_that_could_not_read_the_registry_another_batch_may_probe(
    run_one, probe, deliver, services, monkeypatch
):
    def away():
        raise RedisError

    assert probe("one")
    deliver("a", run=False, task_id="one")
    with monkeypatch.context() as outage:
        outage.setattr(services.registry, "snapshot", away)
        run_one()
    assert probe("two")


def test_a_message_that_is_not_the_probe_leaves_it_to_the_probe(probe, deliver, stream):
    deliver("a", task_id="late")
    assert probe("one")
    deliver("a", task_id="late")
    assert not probe("two")


def test_a_stream_that_was_disconnected_meanwhile_has_no_breaker(worker, deliver, firehose, services, stream):
    firehose.faults.append(fail(error("InternalFailure", 500), times=1))
    deliver("a", run=False)
    services.registry.disconnect(*services.registry.snapshot().connections)
    worker.run_one(stream.queue)
    assert len(puts(firehose)) == 1
    assert not services.circuit_breakers.all()
    assert len(worker.waiting(stream.queue)) == 1


def test_a_few_refused_records_do_not_open_the_breaker(worker, deliver, firehose, services, stream):
    firehose.faults.append(refuse_once(b"unlucky"))
    deliver("a", "b", "unlucky", run=False)
    worker.run_one(stream.queue)
    assert services.circuit_breakers.get(stream) is None


@pytest.mark.parametrize("status", ["DELETING", "DELETING_FAILED", "CREATING_FAILED"])
def test_a_missing_stream_that_is_not_being_created_is_a_permanent_refusal(
    deliver, firehose, services, stream, status
):
    firehose.create("travel", status=status)
    deliver("a")
    assert [alert.type for alert in services.alerts.all()] == ["Stream Not Found"]
    assert services.circuit_breakers.get(stream)


def test_a_stream_that_is_being_created_is_waited_for(worker, deliver, firehose, services, stream):
    firehose.create("travel", status="CREATING")
    deliver("a", run=False)
    worker.run_one(stream.queue)
    assert not services.dead_letters.all()
    assert services.circuit_breakers.get(stream).until is not None
    firehose.create("travel")
    worker.run(stream.queue)
    assert firehose.accepted("travel") == [b"a"]


def test_where_firehose_will_not_describe_a_stream_it_counts_as_missing(deliver, firehose, services):
    firehose.create("travel", status="CREATING")
    firehose.faults.append(refuse_to_describe(error("AccessDeniedException")))
    deliver("a")
    assert [alert.type for alert in services.alerts.all()] == ["Stream Not Found"]


def test_where_firehose_cannot_describe_a_stream_just_now_it_is_asked_again(
    worker, deliver, firehose, services, stream
):
    firehose.create("travel", status="CREATING")
    firehose.faults.append(refuse_to_describe(error("LimitExceededException")))
    deliver("a", run=False)
    worker.run_one(stream.queue)
    assert not services.dead_letters.all()
    assert len(worker.waiting(stream.queue)) == 1


def refuse_to_describe(answer):
    return lambda call: answer if call.operation == "DescribeDeliveryStream" else None


def test_a_configuration_that_is_gone_is_named(deliver, firehose, services, redis, clock):
    redis.delete("audience:configurations")
    redis.incr("audience:registry:version")
    clock.advance(60)
    deliver("a")
    (alert,) = services.alerts.all()
    assert (alert.type, alert.error_code) == ("Invalid Credentials", "UnknownConfiguration")
    assert "'main'" in alert.message
    assert not puts(firehose)


def test_expired_credentials_are_fetched_anew_and_the_batch_is_tried_again(deliver, firehose, clients):
    firehose.faults.append(fail(error("ExpiredTokenException"), times=1))
    deliver("a")
    assert clients.forgotten == [("main", "us-east-1")]
    assert puts(firehose)[-1] == [b"a"]
    assert firehose.accepted("travel") == [b"a"]


@pytest.fixture
def own_credentials(app, clients, monkeypatch):
    """Clients of a worker whose credentials are its machine's."""
    monkeypatch.setitem(app.__dict__, "clients", Clients(cipher=None, read_timeout=30))
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIASECRETIVE0001")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secretive")


@pytest.fixture
def is_untouched(worker, services, stream, firehose):
    """Whether the message is in the broker as it was: no retry, no dead letter, no alert, no open breaker."""

    def check():
        (message,) = worker.waiting(stream.queue)
        assert (services.dead_letters.all(), services.alerts.all()) == ([], [])
        assert services.circuit_breakers.get(stream) is None
        assert services.counters.of(stream).refused == 0
        return not message.headers["retries"]

    return check


WORKER_TROUBLES = {
    "an endpoint that is no URL": {"AWS_ENDPOINT_URL_FIREHOSE": "secretive@localhost:5000"},
    "an endpoint where nobody listens": {"AWS_ENDPOINT_URL_FIREHOSE": "http://127.0.0.1:9"},
    "half an access key": {"AWS_SECRET_ACCESS_KEY": ""},
    "a profile that does not exist": {"AWS_PROFILE": "lost"},
}


@pytest.mark.usefixtures("own_credentials")
@pytest.mark.parametrize("settings", WORKER_TROUBLES.values(), ids=WORKER_TROUBLES)
def test_a_worker_s_trouble_leaves_the_batch_to_other_workers(
    run_one, deliver, is_untouched, monkeypatch, settings
):
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    deliver("a", run=False)
    run_one()
    assert is_untouched()


@pytest.mark.usefixtures("own_credentials")
def test_another_worker_delivers_the_batch_of_a_worker_in_trouble(run_one, deliver, firehose, monkeypatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL_FIREHOSE", "http://127.0.0.1:9")
    deliver("a", run=False)
    run_one()
    assert not firehose.calls
    monkeypatch.setenv("AWS_ENDPOINT_URL_FIREHOSE", firehose.url)
    run_one()
    assert firehose.accepted("travel") == [b"a"]


@ALONE
def test_a_probe_of_a_worker_in_trouble_is_left_to_another(run_one, probe, deliver, firehose):
    deliver("a", run=False, task_id="probe")
    assert probe("probe")
    firehose.faults.append(fail(error("RequestTimeTooSkewed", 403), times=1))
    run_one()
    assert probe("other")


@ALONE
def test_a_probe_that_meets_the_trouble_that_opened_the_breaker_keeps_it_open_for_longer(
    run_one, probe, deliver, firehose, services
):
    stream = Stream("main", "us-east-1", "travel")
    services.circuit_breakers.record_failure(stream, AlertType.WORKER_TROUBLE, first=0, longest=0)
    deliver("a", run=False, task_id="probe")
    assert probe("probe")
    firehose.faults.append(fail(error("RequestTimeTooSkewed", 403), times=1))
    run_one()
    breaker = services.circuit_breakers.get(stream)
    assert (breaker.failures, breaker.probing, breaker.reason) == (2, False, "Worker Trouble")


@ALONE
def test_text_that_is_no_utf_8_ends_its_batch_and_not_its_stream(deliver, firehose, services, stream):
    deliver("half a pair: \ud800")
    deliver("b")
    assert len(services.dead_letters.all()) == 1
    assert services.circuit_breakers.get(stream) is None
    assert firehose.accepted("travel") == [b"b"]


def test_a_batch_with_malformed_answers_is_dead_lettered_soon_and_its_alert_does_not_deny_that_it_was_sent(
    deliver, firehose, services
):
    firehose.faults.append(fail(Answer(200, raw=b"null")))
    deliver("a", "b")
    assert len(puts(firehose)) == MALFORMED_ATTEMPTS
    (letter,) = services.dead_letters.all()
    assert (letter.type, letter.error_code) == ("Retry Limit Exceeded", "MalformedResponse")
    fatal = services.alerts.all()[0]
    assert "may have arrived" in fatal.message
    assert "nothing of it was sent" not in fatal.message


def test_malformed_answers_count_only_in_a_row(deliver, firehose):
    for _ in range(MALFORMED_ATTEMPTS - 1):
        firehose.faults.append(fail(Answer(200, raw=b"null"), times=1))
    firehose.faults.append(fail(error("InternalFailure", 500), times=1))
    firehose.faults.append(fail(Answer(200, raw=b"[]"), times=1))
    deliver("a")
    assert firehose.accepted("travel") == [b"a"]


DENIES_BATCHES = error("AccessDeniedException", message="not authorized to perform: firehose:PutRecordBatch")


def deny_batches(call):
    return DENIES_BATCHES if call.operation == "PutRecordBatch" else None


def operations(firehose):
    return [call.operation for call in firehose.calls]


@ALONE
def test_where_only_put_record_is_allowed_records_go_one_a_call_with_one_warning(
    deliver, firehose, services, stream
):
    firehose.faults.append(deny_batches)
    deliver("a", ["b", "c"])
    deliver("d")
    assert firehose.accepted("travel") == [b"a", b"b", b"c", b"d"]
    assert operations(firehose) == ["PutRecordBatch", *["PutRecord"] * 4]
    (alert,) = services.alerts.all()
    assert (alert.type, alert.severity) == ("Access Denied", "warning")
    assert "firehose:PutRecordBatch" in alert.message
    assert services.circuit_breakers.get(stream) is None
    assert services.counters.of(stream).delivered == 4


def test_a_record_that_is_refused_by_itself_is_sent_again_with_those_after_it(deliver, firehose):
    refusals = iter([None, None, error("ThrottlingException")])

    def throttle(call):
        return next(refusals, None) if call.operation == "PutRecord" else None

    firehose.faults += [deny_batches, throttle]
    deliver("a", "b", "c")
    assert firehose.accepted("travel") == [b"a", b"b", b"c"]


def test_where_put_record_is_denied_too_the_refusal_is_permanent(deliver, firehose, services, stream):
    firehose.faults.append(fail(DENIES_BATCHES))
    deliver("a")
    assert services.circuit_breakers.get(stream).reason == "Access Denied"
    assert len(services.dead_letters.all()) == 1


PUT_RECORD_ANSWERS = {"{}": b"{}", "null": b"null", "a list": b"[]", "no JSON": b"<html></html>"}


@pytest.mark.parametrize("answer", PUT_RECORD_ANSWERS.values(), ids=PUT_RECORD_ANSWERS)
def test_an_answer_to_put_record_without_a_record_id_accepts_nothing(deliver, firehose, services, answer):
    answers = iter([None, Answer(200, raw=answer)])

    def malform(call):
        return next(answers, None) if call.operation == "PutRecord" else None

    firehose.faults += [deny_batches, malform]
    deliver("a", "b", "c")
    assert firehose.accepted("travel") == [b"a", b"b", b"c"]
    assert services.dead_letters.all() == []


def test_a_put_record_that_is_throttled_is_tried_again_where_put_record_batch_is_denied(
    deliver, firehose, services, stream
):
    refusals = iter([error("ThrottlingException")])

    def throttle(call):
        return next(refusals, None) if call.operation == "PutRecord" else None

    firehose.faults += [deny_batches, throttle]
    deliver("a", "b")
    assert firehose.accepted("travel") == [b"a", b"b"]
    assert services.dead_letters.all() == []
    assert services.circuit_breakers.get(stream) is None


def test_where_put_record_is_denied_from_now_on_put_record_batch_is_tried_again(deliver, firehose, services):
    firehose.faults.append(deny_batches)
    deliver("a")
    denies = error("AccessDeniedException", message="not authorized to perform: firehose:PutRecord")
    firehose.faults[:] = [lambda call: denies if call.operation == "PutRecord" else None]
    deliver("b")
    assert firehose.accepted("travel") == [b"a", b"b"]
    assert services.dead_letters.all() == []


@pytest.fixture
def refused_for_good(deliver, firehose, services, stream, probe):
    """A stream that a permanent refusal has paused, and a batch that probes it after a passing `test`."""
    firehose.faults.append(fail(error("InvalidKMSResourceException")))
    deliver("a")
    assert services.circuit_breakers.half_open(stream)
    deliver("b", run=False, task_id="probe")
    assert probe("probe")


@ALONE
@pytest.mark.usefixtures("refused_for_good")
def test_a_probe_that_is_refused_as_before_goes_back_and_the_stream_is_paused_again(
    run_one, worker, services, stream
):
    run_one()
    assert services.circuit_breakers.get(stream).is_paused
    assert services.circuit_breakers.get(stream).reason == "Invalid Request"
    assert len(worker.waiting(stream.queue)) == 1
    assert len(services.dead_letters.all()) == 1


@ALONE
@pytest.mark.usefixtures("refused_for_good")
def test_that_the_stream_is_paused_again_is_notified_beside_a_warning_of_the_same_quarter_of_an_hour(
    run_one, services, stream
):
    assert services.alerts.start_cooldown(stream.queue)
    run_one()
    assert "paused as before" in services.alerts.all()[0].message


@pytest.mark.usefixtures("refused_for_good")
def test_a_probe_that_is_accepted_closes_the_breaker(run_one, firehose, services, stream):
    firehose.faults.clear()
    run_one()
    assert services.circuit_breakers.get(stream) is None
    assert firehose.accepted("travel") == [b"b"]


@ALONE
@pytest.mark.usefixtures("refused_for_good")
def test_a_probe_that_is_refused_for_another_reason_is_a_dead_letter(run_one, firehose, services, stream):
    firehose.faults[:] = [fail(error("AccessDeniedException"))]
    run_one()
    assert services.circuit_breakers.get(stream).reason == "Access Denied"
    assert len(services.dead_letters.all()) == 2


@ALONE
def test_a_defect_pauses_the_stream_and_not_only_its_batch(deliver, app, services, stream, monkeypatch):
    monkeypatch.setattr(tasks.firehose_calls, "put", lambda *_: 1 / 0)
    deliver("a")
    assert len(services.dead_letters.all()) == 1
    assert services.circuit_breakers.get(stream).reason == "Invalid Request"


@ALONE
def test_a_defect_in_dead_lettering_leaves_the_batch_in_the_broker(worker, deliver, app, stream, monkeypatch):
    monkeypatch.setattr(tasks.firehose_calls, "put", lambda *_: 1 / 0)
    monkeypatch.setattr(app.services.dead_lettering, "dead_letter", lambda *_: 1 / 0)
    deliver("a", run=False)
    worker.run_one(stream.queue)
    assert len(worker.waiting(stream.queue)) == 1


# A message comes back where its worker died before acknowledging it.


def test_a_delivered_message_that_comes_back_is_not_delivered_again(deliver, firehose):
    deliver("a", task_id="one")
    deliver("a", task_id="one")
    assert puts(firehose) == [[b"a"]]


def test_an_attempt_that_was_handed_over_to_a_retry_is_not_repeated(worker, deliver, firehose, stream):
    firehose.faults.append(refuse_once(b"b"))
    deliver("a", "b", run=False, task_id="one")
    worker.run_one(stream.queue)
    deliver("a", "b", run=False, task_id="one")
    worker.run(stream.queue)
    assert puts(firehose) == [[b"a", b"b"], [b"b"]]


@ALONE
def test_a_dead_lettered_message_that_comes_back_is_not_dead_lettered_again(
    deliver, firehose, services, stream
):
    firehose.faults.append(fail(error("ValidationException"), times=1))
    deliver("a", task_id="one")
    services.circuit_breakers.resume(stream)
    deliver("a", task_id="one")
    assert (len(services.dead_letters.all()), len(services.alerts.all())) == (1, 1)
    assert len(puts(firehose)) == 1


def test_while_redis_is_away_a_batch_stays_in_the_broker(worker, deliver, firehose, redis_server, stream):
    deliver("a", run=False)
    redis_server.connected = False
    worker.run_one(stream.queue)
    redis_server.connected = True
    assert not puts(firehose)
    worker.run(stream.queue)
    assert firehose.accepted("travel") == [b"a"]


def test_a_retry_that_cannot_be_sent_leaves_the_batch_in_the_broker(
    worker, deliver, firehose, stream, monkeypatch
):
    def refuse(*_, **__):
        raise OperationalError

    firehose.faults.append(refuse_once(b"a"))
    deliver("a", run=False)
    with monkeypatch.context() as away:
        away.setattr(Signature, "apply_async", refuse)
        worker.run_one(stream.queue)
    assert len(worker.waiting(stream.queue)) == 1
    worker.run(stream.queue)
    assert firehose.accepted("travel") == [b"a"]


@ALONE
def test_a_message_that_kills_every_process_becomes_a_dead_letter(worker, deliver, services, stream):
    deliver("a", "b", run=False)
    for _ in range(MAX_LOST_PROCESSES):
        worker.die_over_one(stream.queue)
        assert len(worker.waiting(stream.queue)) == 1
    worker.die_over_one(stream.queue)
    assert not worker.waiting(stream.queue)
    (letter,), (alert,) = services.dead_letters.all(), services.alerts.all()
    assert (letter.records, letter.stream, letter.error_code) == (2, stream, "WorkerLostError")
    assert alert.dead_letter_id == letter.id


@pytest.fixture
def passing_time(services, clock, monkeypatch):
    """Time passes while a task sleeps."""
    monkeypatch.setattr(services, "sleep", clock.advance)


@pytest.mark.usefixtures("passing_time")
def test_an_error_in_recording_counters_does_not_repeat_the_delivery(
    deliver, firehose, services, monkeypatch
):
    def refuse(*_, **__):
        raise RedisError

    monkeypatch.setattr(services.counters, "delivered", refuse)
    monkeypatch.setattr(services.idempotency, "complete", refuse)
    firehose.faults.append(refuse_once(b"b"))
    deliver("a", "b")
    assert puts(firehose) == [[b"a", b"b"], [b"b"]]


WRONG_CALLS = [
    {},
    {"records": ["secretive"]},
    {"configuration": 7, "delivery_stream_name": [], "records": None, "connection_ids": 1, "audience_ids": 1},
]


@pytest.mark.parametrize("kwargs", WRONG_CALLS)
def test_a_call_with_wrong_arguments_becomes_a_dead_letter(worker, stream, services, kwargs):
    worker.send(stream.task, kwargs, queue=stream.queue)
    worker.run(stream.queue)
    (letter,), (alert,) = services.dead_letters.all(), services.alerts.all()
    message = services.dead_letters.message(letter)
    assert (message.task, message.queue, message.kwargs) == (stream.task, stream.queue, kwargs)
    assert alert.type == "Invalid Request"
    assert "secretive" not in repr(alert)


@pytest.mark.parametrize("records", [7, ["a", 7], ["a", None], None])
def test_malformed_records_become_a_dead_letter(worker, stream, services, firehose, records):
    call = {"configuration": "main", "delivery_stream_name": "travel", "records": records}
    worker.send(stream.task, call | {"connection_ids": [], "audience_ids": []}, queue=stream.queue)
    worker.run(stream.queue)
    assert len(services.dead_letters.all()) == 1
    assert not firehose.accepted("travel")


# Retries: Celery's own, with full jitter.


@pytest.mark.parametrize("region", regions())
def test_every_region_s_task_is_retried_with_full_jitter_for_hours(region):
    task = DELIVERY_TASKS[region]
    assert task.name == f"audience.deliver.{region}"
    assert task.retry_jitter is True
    assert task.max_retries == DEFAULTS.retry_max
    assert task.retry_backoff == DEFAULTS.retry_backoff == 1
    assert task.retry_backoff_max == DEFAULTS.retry_backoff_max == 600


def test_a_retry_waits_for_a_time_that_doubles_and_is_drawn_anew(
    worker, deliver, firehose, stream, monkeypatch
):
    asked = []

    def draw(factor, retries, maximum, full_jitter):
        asked.append((factor, retries, maximum, full_jitter))
        return 0

    monkeypatch.setattr("celery.app.autoretry.get_exponential_backoff_interval", draw)
    firehose.faults.append(fail(error("InternalFailure", 500), times=3))
    deliver("a")
    assert asked == [(1, 0, 600, True), (1, 1, 600, True), (1, 2, 600, True)]


def test_every_region_s_task_has_its_rate_limit(app):
    app.finalize()
    for region, rate in rate_limits({}).items():
        assert app.conf.task_annotations[f"audience.deliver.{region}"]["rate_limit"] == rate
        assert app.tasks[f"audience.deliver.{region}"].rate_limit == rate


def test_a_message_is_acknowledged_late_and_requeued_if_its_worker_is_lost(app):
    assert app.conf.task_acks_late
    assert app.conf.task_reject_on_worker_lost


@pytest.mark.usefixtures("passing_time")
def test_an_outage_of_redis_while_firehose_is_down_loses_nothing(
    worker, deliver, firehose, redis_server, stream
):
    def down_with_redis(call):
        redis_server.connected = False
        return Answer(500, {"__type": "InternalFailure"})

    firehose.faults.append(down_with_redis)
    deliver("a", run=False)
    worker.run_one(stream.queue)
    redis_server.connected = True
    firehose.faults.clear()
    worker.run(stream.queue)
    assert set(firehose.accepted("travel")) == {b"a"}


def test_the_history_holds_records_bytes_and_the_seconds_since_they_were_enqueued(
    deliver, firehose, services, stream, clock
):
    firehose.faults.append(refuse_once(b"ccc"))
    deliver("a", ["bb", "ccc", "dddd"], headers={ENQUEUED_AT_HEADER: clock() - 0.7}, run=True)
    history = services.history.of([stream])[stream]
    assert (sum(history.delivered), sum(history.refused), sum(history.bytes)) == (4, 1, 10)
    assert history.quantile_seconds(0.99) == 1
    assert services.history.delivery_seconds().cumulative[-1] == 4


def test_a_chain_s_later_batches_were_enqueued_with_its_first(deliver, services, clock):
    deliver("a", then=[["b"], ["c"]], headers={ENQUEUED_AT_HEADER: clock() - 20})
    assert services.history.delivery_seconds().total_seconds == 3 * 20


def test_a_batch_that_does_not_say_when_it_was_enqueued_counts_without_seconds(deliver, services, stream):
    deliver("a")
    assert sum(services.history.of([stream])[stream].delivered) == 1
    assert services.history.delivery_seconds().cumulative[-1] == 0


def test_a_batch_in_another_queue_that_this_worker_cannot_deliver_comes_back_after_a_pause(
    deliver, firehose, services, worker, monkeypatch
):
    pauses = []
    monkeypatch.setattr(services, "sleep", pauses.append)
    firehose.faults.append(fail(Answer(403, raw=b"<html>")))
    deliver("a", run=False, queue="elsewhere")
    worker.run_one("elsewhere")
    assert len(worker.waiting("elsewhere")) == 1
    assert pauses == [REQUEUE_PAUSE_SECONDS]


class ExpiringClients:
    """Has the client, and the next time no credentials for one."""

    def __init__(self, clients):
        self._found = [clients.get]

    def get(self, configuration, region):
        if not self._found:
            raise CredentialsError("CredentialRetrievalError", "they could not be fetched")
        return self._found.pop()(configuration, region)

    def forget(self, configuration_name, region):
        pass


def test_credentials_that_end_between_a_refusal_and_the_question_behind_it_are_the_worker_s_trouble(
    deliver, firehose, services, worker, stream
):
    deliver("a", run=False)
    firehose.faults.append(fail(error("ResourceNotFoundException")))
    worker.app.__dict__["clients"] = ExpiringClients(worker.app.clients)
    worker.run_one(stream.queue)
    assert services.dead_letters.all() == []
    assert len(worker.waiting(stream.queue)) == 1
