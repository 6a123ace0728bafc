"""Regions, and the rate limit of each."""

import pytest

from worker.firehose.regions import partition, rate_limits, regions


def test_every_partition_has_its_regions():
    assert {"us-east-1", "eu-central-1", "cn-north-1", "cn-northwest-1", "us-gov-west-1"} <= set(regions())


@pytest.mark.parametrize(
    ("region", "name"),
    [("us-east-1", "aws"), ("cn-north-1", "aws-cn"), ("us-gov-west-1", "aws-us-gov")],
)
def test_the_partition_of_a_region(region, name):
    assert partition(region) == name


def test_a_rate_limit_for_every_region_by_its_quota():
    limits = rate_limits({})
    assert limits.keys() == set(regions())
    assert (limits["us-east-1"], limits["cn-north-1"]) == ("2000/s", "1000/s")


def test_an_operator_s_limit_counts_for_its_region_alone():
    limits = rate_limits({"eu-west-1": "10/s"})
    assert (limits["eu-west-1"], limits["us-east-1"]) == ("10/s", "2000/s")
