"""The generated parts of docs/performance.md are replaced, and nothing else."""

import pytest

from benchmarks.growth.document import DOCUMENT, filled, plot_name, targets
from benchmarks.growth.settings import AXES

PARTS = ("targets", "growth", "sizing", "ends")


def test_a_part_is_replaced_and_the_rest_stays():
    text = "before\n<!-- a -->\nold\n<!-- end -->\nbetween\n<!-- b -->\n<!-- end -->\nafter\n"

    once = filled(text, {"a": ["new", r"\1"], "b": ["other"]})

    assert once == (
        "before\n<!-- a -->\nnew\n\\1\n<!-- end -->\nbetween\n<!-- b -->\nother\n<!-- end -->\nafter\n"
    )
    assert filled(once, {"a": ["new", r"\1"]}) == once


def test_a_document_without_the_part_is_refused():
    with pytest.raises(ValueError, match="'a'"):
        filled("nothing", {"a": []})


def test_the_document_has_a_place_for_each_part():
    filled(DOCUMENT.read_text("utf-8"), {part: ["x"] for part in PARTS})


def test_a_row_says_whether_floor_or_goal_is_reached():
    line = {
        "scenario": "calls",
        "what": "calls",
        "unit": "calls",
        "baseline": None,
        "measured": 30,
        "ratio": None,
        "target": "at most 60",
        "goal": "at most 25",
        "met": True,
        "reaches_goal": False,
    }

    *_, row = targets([{"machine": "a machine"}, line])

    assert row == "| calls | calls |  | 30 |  | at most 60 | at most 25 | floor |"


def test_each_axis_has_a_plot_of_its_own():
    assert len({plot_name(axis) for axis in AXES}) == len(AXES)
