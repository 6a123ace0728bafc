"""The sizing table follows from measured costs by arithmetic that can be checked by hand."""

import pytest

from benchmarks.growth.settings import Point
from benchmarks.growth.sizing import Cost, costs, ends, table

COST = Cost("1 a message", cpu_microseconds=30, redis_microseconds=20, redis_bytes=250)


def point(value, cpu, redis, waiting):
    return Point("changes_per_message", value, 1_000.0, cpu, redis, waiting)


def test_cores_are_used_to_six_tenths():
    assert COST.cores(20_000) == pytest.approx(1.0)


def test_an_outage_keeps_every_change_of_its_hours():
    assert COST.redis_gb(1_000, hours=4) == pytest.approx(3.6)


def test_one_redis_ends_where_six_tenths_of_its_thread_are_used():
    assert COST.most_changes == pytest.approx(30_000)
    assert COST.redis_share(COST.most_changes) == pytest.approx(0.6)


def test_costs_are_those_of_the_smallest_and_the_largest_messages():
    points = [point(20, 9, 9, 9), point(1, 30, 20, 250), point(500, 10, 2, 100)]

    assert [(cost.name, cost.cpu_microseconds) for cost in costs(points)] == [
        ("1 a message", 30),
        ("500 a message", 10),
    ]


def test_a_rate_beyond_one_redis_is_marked():
    lines = list(table([point(1, 30, 20, 250), point(500, 10, 2, 100)]))

    assert [line for line in lines if "more than one Redis" in line] == [
        line for line in lines if line.startswith("| 50,000 | 1 a message")
    ]


def test_each_way_of_sending_has_its_end():
    first, second = ends([point(1, 30, 20, 250), point(500, 10, 2, 100)])

    assert "30,000 changes a second" in first
    assert "300,000 changes a second" in second
