"""Plots are valid SVG, and no point leaves its panel."""

from xml.etree import ElementTree

import pytest

from benchmarks.growth.plot import BOTTOM, HEIGHT, LEFT, RIGHT, TOP, WIDTH, Line, Panel, draw, short

SVG = "{http://www.w3.org/2000/svg}"


def markers(text):
    for circle in ElementTree.fromstring(text).iter(f"{SVG}circle"):
        if circle.find(f"{SVG}title") is not None:
            yield float(circle.get("cx")), float(circle.get("cy"))


@pytest.mark.parametrize(
    "values", [(1.0, 2.0, 3.0), (0.02, 7.0, 9_000.0), (5.0, 5.0, 5.0), (0.0, 0.0, 0.0)], ids=str
)
@pytest.mark.parametrize("places", [(1, 2, 4), (0, 10, 200), (1, 100, 10_000)], ids=str)
def test_each_value_has_a_marker_inside_the_panel(values, places):
    drawn = list(markers(draw("streams", places, [Panel("records", [Line("records", values)])])))

    assert len(drawn) == len(values)
    assert all(LEFT <= x <= WIDTH - RIGHT and TOP <= y <= HEIGHT - BOTTOM for x, y in drawn)


def test_a_greater_value_stands_higher():
    _, low, high = list(
        markers(draw("streams", (1, 2, 3), [Panel("records", [Line("records", (1, 5, 90))])]))
    )

    assert high[1] < low[1]


def test_places_too_close_for_two_labels_have_one():
    text = draw("ms", (0, 10, 200), [Panel("records", [Line("records", (1, 2, 3))])])
    labels = [element.text for element in ElementTree.fromstring(text).iter(f"{SVG}text")]

    assert "200" in labels
    assert "10" not in labels


def test_a_second_line_is_named_and_of_another_colour():
    text = draw("streams", (1, 2), [Panel("CPU", [Line("workers", (1, 2)), Line("Redis", (3, 4))])])
    paths = [path for path in ElementTree.fromstring(text).iter(f"{SVG}path") if path.get("stroke-width")]

    assert len({path.get("stroke") for path in paths}) == 2
    assert ">workers</text>" in text
    assert ">Redis</text>" in text


def test_markup_in_a_label_is_text():
    assert "<b>" not in draw("<b>", (1, 2), [Panel("<b>", [Line("<b>", (1, 2))])])


@pytest.mark.parametrize(
    ("value", "text"), [(385, "385"), (20_000, "20k"), (1_500_000, "1.5M"), (0.25, "0.25"), (0, "0")]
)
def test_numbers_are_short(value, text):
    assert short(value) == text
