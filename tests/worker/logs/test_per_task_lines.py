"""A task that succeeds writes no log line, unless the level is DEBUG."""

import logging

import pytest
from celery.app import trace
from celery.signals import after_setup_logger

import worker.celery  # noqa: F401
from worker.logs.per_task_lines import LOGGERS, RECEIVED_LOGGER, is_written


@pytest.fixture(params=LOGGERS)
def logger(request):
    logger = logging.getLogger(request.param)
    before = logger.level
    yield logger
    logger.setLevel(before)


def line(logger, message):
    return logging.LogRecord(logger.name, logging.INFO, "", 0, message, ({"id": "x"},), None)


@pytest.mark.parametrize("message", [trace.LOG_RECEIVED, trace.LOG_SUCCESS])
@pytest.mark.parametrize(("level", "written"), [(logging.INFO, False), (logging.DEBUG, True)])
def test_the_lines_of_each_task_are_written_at_debug_only(logger, message, level, written):
    logger.setLevel(level)
    assert is_written(line(logger, message)) is written


def test_every_other_line_is_written(logger):
    logger.setLevel(logging.INFO)
    for message in (trace.LOG_FAILURE, trace.LOG_INTERNAL_ERROR, trace.LOG_IGNORED, "%s: unheard of"):
        assert is_written(line(logger, message))


def test_the_application_filters_the_loggers_that_celery_uses(logger):
    assert is_written in logger.filters


@pytest.mark.parametrize(("level", "spared"), [(logging.INFO, True), (logging.DEBUG, False)])
def test_celery_makes_the_line_that_a_task_was_received_at_debug_only(level, spared):
    received = logging.getLogger(RECEIVED_LOGGER)
    before = received.level
    received.setLevel(logging.NOTSET)
    try:
        after_setup_logger.send(None, logger=logging.getLogger(), loglevel=level)
        assert received.level == (logging.WARNING if spared else logging.NOTSET)
    finally:
        received.setLevel(before)
