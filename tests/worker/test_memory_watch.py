"""When a Redis counts as nearly full."""

import pytest

from worker.memory_watch import fullness


@pytest.mark.parametrize(("used", "limit", "is_said"), [(89, 100, False), (90, 100, True), (500, 0, False)])
def test_from_nine_tenths_on_it_is_said(used, limit, is_said):
    assert bool(fullness({"used_memory": used, "maxmemory": limit})) == is_said


def test_a_server_that_knows_no_limit_is_never_full():
    assert fullness({"used_memory": 500}) is None
