"""The numbers behind `status` and the Streams page."""

import pytest

from schemas.records import Skip
from worker.state.counters import RETRYING


@pytest.fixture
def counters(services):
    return services.counters


def test_the_counters_of_a_new_stream_are_zero(counters, stream):
    assert counters.of(stream) == (0, 0, 0, 0, 0, {}, None, 0, 0, 0)


def test_deliveries_and_refusals_add_up(counters, stream):
    counters.delivered(stream, accepted=3, refused=2)
    counters.delivered(stream, accepted=1, refused=1)
    counts = counters.of(stream)
    assert (counts.delivered, counts.refused) == (4, 3)


def test_only_an_accepted_record_is_a_delivery(counters, stream, clock):
    counters.delivered(stream, accepted=1, refused=0)
    clock.advance(60)
    counters.delivered(stream, accepted=0, refused=1)
    assert counters.of(stream).last_delivery == "2023-11-14T22:13:20+00:00"


def test_records_that_wait_for_a_retry_are_counted_by_message(counters, stream):
    counters.retrying(stream, "one", 5)
    counters.retrying(stream, "two", 2)
    counters.retrying(stream, "one", 3)
    assert counters.of(stream).retrying == 5
    counters.retrying(stream, "one", 0)
    assert counters.of(stream).retrying == 2


@pytest.mark.parametrize("corrupt", ["nan", "inf", "1e999", "9" * 400, "-1", "0x10", "", "text"])
def test_a_corrupt_number_of_records_that_wait_for_a_retry_counts_for_none(counters, redis, stream, corrupt):
    counters.retrying(stream, "one", 5)
    redis.hset(f"{RETRYING}:{stream.queue}", "two", corrupt)
    assert counters.of(stream).retrying == 5


def test_skipped_records_are_counted_by_reason(counters, stream):
    counters.skipped({(stream, Skip.ANONYMOUS): 2, (None, Skip.NO_CONNECTION): 1})
    counters.skipped({(stream, Skip.ANONYMOUS): 1, (stream, Skip.NO_IDENTITIES): 1})
    assert counters.of(stream).skipped == {Skip.ANONYMOUS: 3, Skip.NO_IDENTITIES: 1}
    assert counters.of(None).skipped == {Skip.NO_CONNECTION: 1}


def test_each_stream_has_its_own_counters(counters, stream):
    counters.delivered(stream, accepted=1, refused=0)
    counters.retrying(stream, "one", 1)
    assert counters.of(stream._replace(configuration="other")) == (0, 0, 0, 0, 0, {}, None, 0, 0, 0)


def test_streams_that_an_earlier_version_has_counted_are_found(services, counters, stream, redis):
    redis.hincrby(f"audience:counters:{stream.queue}", "accepted", 1)
    counters.enqueued(stream._replace(name="other"), 1)
    assert {found.name for found in counters.streams()} == {"travel", "other"}


def test_a_stream_that_is_counted_later_is_found(counters, stream):
    assert counters.streams() == set()
    counters.enqueued(stream, 1)
    assert counters.streams() == {stream}


def test_the_counters_of_many_streams_are_each_stream_s_own(counters, stream):
    streams = [stream._replace(name=f"s{number}") for number in range(1_234)]
    for number, each in enumerate(streams):
        counters.enqueued(each, number)
    assert [counts.enqueued for counts in counters.of_all(streams).values()] == list(range(1_234))
