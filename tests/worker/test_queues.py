"""Names of queues, tasks and streams."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.settings import CONFIGURATION_NAME, DELIVERY_STREAM_NAME
from worker.firehose.regions import regions
from worker.queues import CHANGES_QUEUE, Stream, delivery_task, is_stream_queue, stream_of


def test_the_names_of_a_stream_s_queue_and_task():
    stream = Stream("main", "eu-west-1", "travel.v2")
    assert stream.queue == "firehose.main.eu-west-1.travel.v2"
    assert stream.task == delivery_task("eu-west-1") == "audience.deliver.eu-west-1"


@given(
    st.from_regex(CONFIGURATION_NAME, fullmatch=True),
    st.sampled_from(regions()),
    st.from_regex(DELIVERY_STREAM_NAME, fullmatch=True),
)
def test_a_stream_is_read_from_the_name_of_its_queue(configuration, region, name):
    stream = Stream(configuration, region, name)
    assert stream_of(stream.queue) == stream
    assert is_stream_queue(stream.queue)


@pytest.mark.parametrize("queue", [CHANGES_QUEUE, "celery", "firehose"])
def test_a_queue_of_another_form_is_no_stream_s(queue):
    assert not is_stream_queue(queue)
