"""The files for Grafana and Prometheus: they can be read, and every metric and label value in them exists."""

import json
import re
import shutil
import subprocess

import pytest
import yaml

from devstack.processes import ROOT
from worker.failures.alert_types import Severity
from worker.metrics import Figures, StreamFigures, exposition
from worker.state.counters import Counts
from worker.state.history import BUCKET_SECONDS, DeliverySeconds
from worker.status import StreamState

DASHBOARD = ROOT / "monitoring" / "grafana-dashboard.json"
RULES = ROOT / "monitoring" / "alert-rules.yml"
PROMTOOL = shutil.which("promtool")
NOTHING = Counts(0, 0, 0, 0, 0, {}, None)
PLACEHOLDERS = {"$stream", "audience.changes|$stream", ".*"}


def dashboard():
    return json.loads(DASHBOARD.read_text("utf-8"))


def rules():
    (group,) = yaml.safe_load(RULES.read_text("utf-8"))["groups"]
    return group["rules"]


def expressions():
    """Every expression of both files."""
    panels = [target["expr"] for panel in dashboard()["panels"] for target in panel["targets"]]
    variables = [found["definition"] for found in dashboard()["templating"]["list"] if "definition" in found]
    return [*panels, *variables, *(rule["expr"] for rule in rules())]


@pytest.fixture(scope="module")
def exposed():
    """The metrics of an installation with one stream, as text."""
    queue = "firehose.main.us-east-1.travel"
    figures = Figures(
        streams=[StreamFigures(queue, StreamState.FLOWING, NOTHING)],
        without_stream=NOTHING,
        queue_messages={queue: 0},
        oldest_message_seconds={},
        delivery_seconds=DeliverySeconds([0] * len(BUCKET_SECONDS), 0.0),
        open_alerts=dict.fromkeys(Severity, 0),
        workers=1,
    )
    return exposition(figures).decode()


def test_every_metric_of_the_files_is_exposed(exposed):
    named = {name for text in expressions() for name in re.findall(r"audience_firehose_\w+", text)}
    samples = set(re.findall(r"^(audience_firehose_\w+)", exposed, re.MULTILINE))

    assert named - samples == set()
    assert len(named) == 7


def test_every_label_value_of_the_files_exists(exposed):
    for text in expressions():
        for label, value in re.findall(r'(\w+)(?:=~|!=|=)"([^"]*)"', text):
            for one in value.split("|") if value not in PLACEHOLDERS else ():
                assert f'{label}="{one}"' in exposed, f"{label}={one}"


def test_every_rule_tells_what_to_do():
    assert len({rule["alert"] for rule in rules()}) == len(rules())
    for rule in rules():
        assert rule["labels"]["severity"] in {"warning", "critical"}
        assert rule["annotations"].keys() == {"summary", "description"}


def test_the_panels_of_the_dashboard_do_not_overlap_and_are_distinct():
    panels = dashboard()["panels"]
    places = [panel["gridPos"] for panel in panels]
    cells = [
        (x, y)
        for place in places
        for x in range(place["x"], place["x"] + place["w"])
        for y in range(place["y"], place["y"] + place["h"])
    ]

    assert len(cells) == len(set(cells))
    assert len({panel["id"] for panel in panels}) == len(panels)
    assert max(x for x, _ in cells) < 24


@pytest.mark.skipif(PROMTOOL is None, reason="no promtool on PATH (apt-get install prometheus)")
def test_prometheus_takes_the_rules():
    done = subprocess.run([PROMTOOL, "check", "rules", RULES], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
