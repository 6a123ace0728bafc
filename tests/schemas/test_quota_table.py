"""The quota of a stream: the table's, an operator's for a region, and what connections set."""

import pytest

from schemas.quotas import Quota, default_quota, region_quota, stated_quota

MIB = 2**20
OTHERWISE = Quota(records=100, requests=10, bytes=1_000)


@pytest.mark.parametrize("region", ["us-east-1", "us-west-2", "eu-west-1"])
def test_the_large_regions_have_aws_s_larger_quota(region):
    assert default_quota(region) == (500_000, 2_000, 5 * MIB)


@pytest.mark.parametrize("region", ["eu-central-1", "us-west-1", "cn-north-1", "us-gov-east-1"])
def test_other_regions_have_aws_s_smaller_quota(region):
    assert default_quota(region) == (100_000, 1_000, 1 * MIB)


def test_an_operator_s_quota_counts_for_its_region_alone():
    overrides = {"eu-west-1": OTHERWISE}
    assert region_quota("eu-west-1", overrides) == OTHERWISE
    assert region_quota("us-east-1", overrides) == default_quota("us-east-1")


STATED = {
    "nothing": ([], OTHERWISE),
    "one figure": (["7requests/s"], OTHERWISE._replace(requests=7)),
    "more than otherwise": (["2KiB/s"], OTHERWISE._replace(bytes=2048)),
    "one figure twice": (["2KiB/s", "3KiB/s"], OTHERWISE._replace(bytes=2048)),
    "of each figure the smallest": (
        ["9requests/s+500records/s", "8requests/s+600records/s", "5B/s"],
        Quota(records=500, requests=8, bytes=5),
    ),
}


@pytest.mark.parametrize(("texts", "quota"), STATED.values(), ids=STATED)
def test_the_smallest_stated_figure_counts(texts, quota):
    assert stated_quota(OTHERWISE, texts) == quota
    assert stated_quota(OTHERWISE, reversed(texts)) == quota
