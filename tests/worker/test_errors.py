"""Errors teach, and hold nothing that must not be shown."""

import pickle

import pytest

from worker.errors import DeliveryError, PermanentError, TransientError
from worker.failures.alert_types import AlertType, Failure

FAILURE = Failure(AlertType.INTERNAL_SERVER_ERROR, "InternalFailure", "tried again")


@pytest.mark.parametrize("kind", [TransientError, PermanentError])
def test_a_delivery_error_shows_its_failure_and_not_its_records(kind):
    error = kind(FAILURE, ["secretive"])
    assert str(error) == "InternalFailure: tried again"
    assert repr(error) == f"{kind.__name__}('InternalFailure: tried again')"
    assert error.remaining == ["secretive"]


@pytest.mark.parametrize("kind", [TransientError, PermanentError])
def test_from_process_to_process_goes_the_failure_alone(kind):
    pickled = pickle.dumps(kind(FAILURE, ["secretive"]))
    assert b"secretive" not in pickled
    error = pickle.loads(pickled)
    assert isinstance(error, DeliveryError)
    assert (type(error), error.failure, error.remaining) == (kind, FAILURE, None)
