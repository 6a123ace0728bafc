"""How long a worker pauses the streams that it cannot deliver to, and when it tells operators."""

import pytest

from worker.failures.alert_types import AlertType, Failure
from worker.failures.worker_trouble import report_worker_trouble
from worker.flow.queue_pauses import QueuePauses
from worker.flow.worker_troubles import LASTS_AFTER_TROUBLES, LONGEST_PAUSE_SECONDS, WorkerTroubles
from worker.queues import Stream, stream_of

FAILURE = Failure(AlertType.WORKER_TROUBLE, "EndpointConnectionError", "Firehose cannot be reached")
TRAVEL = Stream("main", "us-east-1", "travel").queue
HOTELS = Stream("main", "us-east-1", "hotels").queue
ELSEWHERE = Stream("main", "eu-west-1", "travel").queue
OTHERS = Stream("other", "us-east-1", "travel").queue


class Queues:
    """The queues that a worker consumes, and a timer that fires when the clock has advanced."""

    def __init__(self, clock):
        self._clock = clock
        self.paused = set()
        self._timers = []

    def pause(self, queue):
        self.paused.add(queue)

    def resume(self, queue):
        self.paused.discard(queue)

    def call_after(self, seconds, function, args):
        self._timers.append((self._clock() + seconds, function, args))

    def advance(self, seconds):
        self._clock.advance(seconds)
        due = [timer for timer in self._timers if timer[0] <= self._clock()]
        self._timers = [timer for timer in self._timers if timer not in due]
        for _, function, args in due:
            function(*args)


@pytest.fixture
def queues(clock):
    return Queues(clock)


@pytest.fixture
def reports():
    return []


@pytest.fixture
def troubles(queues, reports, services, clock):
    """The troubles of a worker that consumes four streams, over the state that all workers share."""
    for number, queue in enumerate([TRAVEL, HOTELS, ELSEWHERE, OTHERS]):
        stream = stream_of(queue)
        services.registry.configure(name=stream.configuration)
        services.registry.connect(
            audience_id=number,
            configuration=stream.configuration,
            delivery_stream_name=stream.name,
            region=stream.region,
        )
    return WorkerTroubles(
        pauses=QueuePauses(queues, queues, clock),
        stream_queues=lambda: [TRAVEL, HOTELS, ELSEWHERE, OTHERS],
        report=reports.append,
        delivered=lambda queue: services.counters.of(stream_of(queue)).delivered,
        open_breaker=lambda queue, failure: services.circuit_breakers.record_failure(
            stream_of(queue), failure.alert_type, first=1, longest=60
        ),
        monotonic=clock,
    )


def test_a_trouble_pauses_the_streams_that_share_its_configuration_and_region(troubles, queues):
    troubles.begin(TRAVEL, FAILURE)
    assert queues.paused == {TRAVEL, HOTELS}


def test_a_pause_ends_by_itself(troubles, queues):
    troubles.begin(TRAVEL, FAILURE)
    queues.advance(1)
    assert not queues.paused


def test_each_trouble_in_a_row_doubles_the_pause_up_to_a_minute(troubles, queues):
    pauses = []
    for _ in range(8):
        troubles.begin(TRAVEL, FAILURE)
        seconds = 0
        while queues.paused:
            queues.advance(1)
            seconds += 1
        pauses.append(seconds)
    assert pauses == [1, 2, 4, 8, 16, 32, LONGEST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS]


def test_messages_that_were_in_flight_as_the_pause_began_do_not_lengthen_it(troubles, queues):
    for _ in range(5):
        troubles.begin(TRAVEL, FAILURE)
    queues.advance(1)
    assert not queues.paused


def test_a_delivery_ends_the_trouble(troubles, queues):
    troubles.begin(TRAVEL, FAILURE)
    queues.advance(1)
    troubles.end(HOTELS)
    troubles.begin(TRAVEL, FAILURE)
    queues.advance(1)
    assert not queues.paused


def test_a_delivery_of_another_configuration_does_not(troubles, queues):
    troubles.begin(TRAVEL, FAILURE)
    queues.advance(1)
    troubles.end(OTHERS)
    troubles.begin(TRAVEL, FAILURE)
    queues.advance(1)
    assert queues.paused == {TRAVEL, HOTELS}


def test_the_third_trouble_in_a_row_raises_an_alert(troubles, queues, reports):
    for number in range(1, LASTS_AFTER_TROUBLES + 1):
        assert not reports, number
        troubles.begin(TRAVEL, FAILURE)
        queues.advance(LONGEST_PAUSE_SECONDS)
    assert reports == [FAILURE]


def meet(troubles, queues, times, queue=TRAVEL):
    """The queue's messages meet the trouble again and again, each time after the longest pause."""
    for _ in range(times):
        troubles.begin(queue, FAILURE)
        queues.advance(LONGEST_PAUSE_SECONDS)


def test_a_trouble_that_lasts_opens_the_breaker_of_a_stream_that_no_worker_delivers_to(
    troubles, queues, services
):
    meet(troubles, queues, LASTS_AFTER_TROUBLES - 1)
    assert not services.circuit_breakers.all()
    meet(troubles, queues, 1)
    assert {queue: b.reason for queue, b in services.circuit_breakers.all().items()} == {
        TRAVEL: AlertType.WORKER_TROUBLE
    }


def test_it_opens_no_breaker_of_a_stream_that_another_worker_delivers_to(troubles, queues, services):
    for _ in range(2 * LASTS_AFTER_TROUBLES):
        meet(troubles, queues, 1)
        services.counters.delivered(stream_of(TRAVEL), accepted=1)
    assert not services.circuit_breakers.all()


def test_a_stream_whose_message_meets_a_lasting_trouble_first_is_left_to_other_workers(
    troubles, queues, services
):
    meet(troubles, queues, LASTS_AFTER_TROUBLES - 1)
    troubles.begin(TRAVEL, FAILURE)
    troubles.begin(HOTELS, FAILURE)
    assert HOTELS not in services.circuit_breakers.all()


def test_a_redis_that_is_away_opens_no_breaker_and_pauses_all_the_same(troubles, queues, redis_server):
    redis_server.connected = False
    meet(troubles, queues, LASTS_AFTER_TROUBLES)
    troubles.begin(TRAVEL, FAILURE)
    assert queues.paused == {TRAVEL, HOTELS}


def test_each_worker_in_the_same_trouble_has_an_alert_of_its_own(services):
    for worker in ("worker1@example", "worker2@example"):
        report_worker_trouble(services.alerts, worker, FAILURE)
    assert [alert.message.partition(":")[0] for alert in services.alerts.all()] == [
        "worker2@example",
        "worker1@example",
    ]


def test_an_alert_names_the_worker_and_the_cause_once_in_a_cooldown(services):
    for _ in range(3):
        report_worker_trouble(services.alerts, "worker1@example", FAILURE)
    (alert,) = services.alerts.all()
    assert (alert.type, alert.severity) == ("Worker Trouble", "warning")
    assert alert.message.startswith("worker1@example: Firehose cannot be reached")


def test_a_redis_that_is_away_does_not_end_the_worker(services, redis_server):
    redis_server.connected = False
    report_worker_trouble(services.alerts, "worker1@example", FAILURE)
