"""A task that succeeds writes no log line, unless the level is DEBUG."""

import logging

import pytest
from celery.app import trace

import worker.celery  # noqa: F401
from worker.logs.per_task_lines import LOGGERS, is_written


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
