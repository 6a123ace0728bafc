"""Celery's lines that repeat one of ours."""

import logging

from celery.app import trace

from worker.logs.repetitions import LOGGER, is_new


def line(message, *arguments):
    return logging.LogRecord(LOGGER, logging.INFO, "", 0, message, arguments, None)


def test_what_celery_logs_of_a_retry_or_a_requeued_message_is_dropped():
    assert not is_new(line(trace.LOG_RETRY, {"id": "x"}))
    assert not is_new(line(trace.log_policy_reject.format.strip(), {"id": "x"}))


def test_every_other_line_of_celery_is_written():
    for text in (trace.LOG_FAILURE, trace.LOG_INTERNAL_ERROR, trace.LOG_IGNORED, "%s: unheard of"):
        assert is_new(line(text))


def test_the_logger_that_celery_traces_tasks_with_is_the_filtered_one():
    assert trace.logger.name == LOGGER
    assert is_new in trace.logger.filters
