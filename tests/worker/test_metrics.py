"""The metrics as Prometheus's own parser reads them."""

import pytest
from prometheus_client.parser import text_string_to_metric_families

from schemas.records import Skip
from worker.failures.alert_types import Severity
from worker.metrics import Figures, StreamFigures, exposition
from worker.state.counters import Counts
from worker.state.history import BUCKET_SECONDS, DeliverySeconds
from worker.status import StreamState

QUEUE = "firehose.main.us-east-1.travel"


def counts(**numbers):
    given = dict.fromkeys(("enqueued", "delivered", "refused", "retrying", "discarded"), 0)
    return Counts(**(given | {"skipped": {}, "last_delivery": None} | numbers))


@pytest.fixture
def families():
    cumulative = [0] * 3 + [4] * (len(BUCKET_SECONDS) - 4) + [5]
    counted = counts(enqueued=10, delivered=7, refused=2, dead_lettered=3)
    figures = Figures(
        streams=[StreamFigures(QUEUE, StreamState.PAUSED, counted)],
        without_stream=counts(skipped={Skip.NO_CONNECTION: 6}, dead_lettered=1),
        queue_messages={QUEUE: 12, "audience.changes": 0},
        oldest_message_seconds={QUEUE: 90.5},
        delivery_seconds=DeliverySeconds(cumulative, 12.5),
        open_alerts={Severity.FATAL: 2},
        workers=3,
    )
    text = exposition(figures).decode()
    return {family.name: family for family in text_string_to_metric_families(text)}


def values(family):
    """By the values of its labels, in the order of the contract."""
    order = ("stream", "queue", "outcome", "state", "severity")
    return {
        tuple(sample.labels[name] for name in order if name in sample.labels): sample.value
        for sample in family.samples
    }


def test_the_metrics_are_those_of_the_contract(families):
    assert families.keys() == {
        "audience_firehose_records",
        "audience_firehose_queue_messages",
        "audience_firehose_oldest_message_seconds",
        "audience_firehose_stream_state",
        "audience_firehose_delivery_seconds",
        "audience_firehose_open_alerts",
        "audience_firehose_workers",
    }


def test_records_are_counted_by_stream_and_outcome(families):
    found = values(families["audience_firehose_records"])

    assert found[QUEUE, "enqueued"] == 10
    assert found[QUEUE, "delivered"] == 7
    assert found[QUEUE, "refused"] == 2
    assert found[QUEUE, "dead"] == 3
    assert found["audience.changes", "skipped"] == 6
    assert found["audience.changes", "dead"] == 1
    assert {outcome for _, outcome in found} == {
        "enqueued",
        "delivered",
        "refused",
        "dead",
        "discarded",
        "skipped",
    }


def test_a_stream_is_in_one_state(families):
    found = values(families["audience_firehose_stream_state"])

    assert [state for (_, state), value in found.items() if value] == ["paused"]
    assert len(found) == len(StreamState)


def test_queues_have_a_length_and_an_age(families):
    assert values(families["audience_firehose_queue_messages"])[(QUEUE,)] == 12
    assert values(families["audience_firehose_oldest_message_seconds"]) == {
        (QUEUE,): 90.5,
        ("audience.changes",): 0,
    }


def test_delivery_seconds_are_a_histogram(families):
    samples = families["audience_firehose_delivery_seconds"].samples
    by_name = {(sample.name, sample.labels.get("le")): sample.value for sample in samples}

    assert by_name["audience_firehose_delivery_seconds_count", None] == 5
    assert by_name["audience_firehose_delivery_seconds_sum", None] == 12.5
    assert by_name["audience_firehose_delivery_seconds_bucket", "0.05"] == 4


def test_open_alerts_are_counted_for_every_severity(families):
    assert values(families["audience_firehose_open_alerts"]) == {("warning",): 0, ("fatal",): 2}


def test_workers_are_counted(families):
    assert families["audience_firehose_workers"].samples[0].value == 3
