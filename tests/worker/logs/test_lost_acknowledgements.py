"""A message that cannot be acknowledged is one line."""

import pytest
from celery.worker import request
from kombu.message import Message
from redis.exceptions import ConnectionError

from worker.logs.lost_acknowledgements import LOGGER, shorten, shorten_lost_acknowledgements


class Lost:
    """A channel whose connection is lost."""

    no_ack_consumers = None

    def basic_ack(self, *_, **__):
        raise ConnectionError

    basic_reject = basic_ack


@pytest.fixture(autouse=True)
def shortened():
    shorten_lost_acknowledgements()


@pytest.mark.parametrize("end", ["ack_log_error", "reject_log_error"])
def test_a_lost_acknowledgement_is_a_warning_without_a_traceback(end, caplog):
    getattr(Message(delivery_tag="tag", channel=Lost()), end)(request.logger, (ConnectionError,))
    (record,) = caplog.records
    assert (record.levelname, record.exc_info) == ("WARNING", None)
    assert "tag" in record.getMessage()


def test_every_other_line_stays_as_it_is(caplog):
    request.logger.critical("unheard of", exc_info=ValueError())
    (record,) = caplog.records
    assert record.levelname == "CRITICAL"
    assert record.exc_info


def test_the_logger_that_celery_ends_messages_with_is_the_filtered_one():
    assert request.logger.name == LOGGER
    assert shorten in request.logger.filters
