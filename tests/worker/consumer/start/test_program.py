"""The output of a worker when it starts and when it is stopped."""

import json

import pytest
from celery.apps import worker as upstream

from worker.celery import app
from worker.config import read_settings


@pytest.fixture
def worker(monkeypatch):
    def make(**variables):
        settings = read_settings({"CELERY_BROKER_URL": "redis://127.0.0.1:1/0", **variables})
        monkeypatch.setattr("worker.consumer.start.program.current_settings", lambda: settings)
        made = app.Worker.__new__(app.Worker)
        made.loglevel, made.hostname, made.concurrency, made.autoscale = 20, "worker@here", 8, None
        made.pool_cls, made.task_events = "prefork", True
        made.colored = app.log.colored(enabled=False)
        return made

    return make


def test_the_banner_lists_no_tasks(worker, capfd):
    worker().emit_banner()
    banner = capfd.readouterr().out
    assert "concurrency: 8" in banner
    assert "audience.deliver" not in banner


def test_there_is_no_banner_among_json_lines(worker, capfd):
    worker(AUDIENCE_LOG_FORMAT="json").emit_banner()
    assert capfd.readouterr().out == ""


def test_the_notice_of_a_shutdown_is_a_json_line_among_others(worker, monkeypatch, capfd):
    monkeypatch.setattr(upstream, "safe_say", upstream.safe_say)
    monkeypatch.setattr(upstream.Worker, "install_platform_tweaks", lambda self, worker: None)
    made = worker(AUDIENCE_LOG_FORMAT="json")
    made.install_platform_tweaks(made)
    upstream.safe_say("worker: Warm shutdown", None)
    printed = capfd.readouterr()
    assert printed.out == ""
    assert json.loads(printed.err)["message"] == "worker: Warm shutdown"
