"""Tests that share servers run in one process."""

import pytest


def test_pytest_xdist_takes_up_the_group_of_a_test(request):
    if not getattr(request.config.option, "loadgroup", False):
        pytest.skip("no processes that groups of tests are spread over")
    group = request.node.get_closest_marker("xdist_group").args[0]
    # It goes by the ends of the tests' names, which it makes itself.
    assert request.node.nodeid.endswith(f"@{group}")
