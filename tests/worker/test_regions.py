"""Regions, and what each allows."""

import pytest

from worker.errors import SettingError
from worker.firehose.regions import partition, quota, rate_limits, regions

MIB = 2**20


def test_every_partition_has_its_regions():
    assert {"us-east-1", "eu-central-1", "cn-north-1", "cn-northwest-1", "us-gov-west-1"} <= set(regions())


@pytest.mark.parametrize("region", ["us-east-1", "us-west-2", "eu-west-1"])
def test_the_large_regions(region):
    assert quota(region) == (500_000, 2_000, 5 * MIB)


@pytest.mark.parametrize("region", ["eu-central-1", "us-west-1", "cn-north-1", "us-gov-east-1"])
def test_the_others(region):
    assert quota(region) == (100_000, 1_000, 1 * MIB)


@pytest.mark.parametrize(
    ("region", "name"),
    [("us-east-1", "aws"), ("cn-north-1", "aws-cn"), ("us-gov-west-1", "aws-us-gov")],
)
def test_the_partition_of_an_arn(region, name):
    assert partition(region) == name


def test_a_rate_limit_for_every_region_by_its_quota():
    limits = rate_limits({})
    assert limits.keys() == set(regions())
    assert (limits["us-east-1"], limits["cn-north-1"]) == ("2000/s", "1000/s")


def test_an_operator_s_limit_counts_for_its_region_alone():
    limits = rate_limits({"eu-west-1": "10/s"})
    assert (limits["eu-west-1"], limits["us-east-1"]) == ("10/s", "2000/s")


def test_a_limit_for_no_region_is_refused():
    with pytest.raises(SettingError, match="AUDIENCE_RATE_LIMITS: no such region: eu-west-9"):
        rate_limits({"eu-west-9": "10/s"})
