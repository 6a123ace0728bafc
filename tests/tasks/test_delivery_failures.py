"""The failure that ends a delivery. `test_deliver.py` shows the alerts."""

import pytest

from tasks.delivery_failures import final_failure
from worker.errors import PermanentError, TransientError
from worker.failures.alert_types import AlertType, Failure

REFUSED = Failure(AlertType.ACCESS_DENIED, "AccessDeniedException", "allow it")
THROTTLED = Failure(AlertType.INTERNAL_SERVER_ERROR, "ServiceUnavailable", "it is slow")


def test_a_permanent_error_ends_a_delivery_with_its_own_failure():
    assert final_failure(PermanentError(REFUSED), attempts=1, has_called_firehose=True) == REFUSED


def test_a_transient_error_ends_a_delivery_once_its_retries_are_spent():
    found = final_failure(TransientError(THROTTLED), attempts=7, has_called_firehose=True)
    assert (found.alert_type, found.error_code) == (AlertType.RETRY_LIMIT_EXCEEDED, "ServiceUnavailable")
    assert found.message.startswith("given up after 7 attempts; the last failure: it is slow")


@pytest.mark.parametrize("has_called_firehose", [True, False])
def test_a_defect_says_whether_anything_was_sent_and_shows_no_content(has_called_firehose):
    found = final_failure(ValueError("p.fogg"), attempts=1, has_called_firehose=has_called_firehose)
    assert (found.alert_type, found.error_code) == (AlertType.INVALID_REQUEST, "ValueError")
    assert found.message.endswith("nothing of it was sent") is not has_called_firehose
    assert "p.fogg" not in found.message
