"""Words and numbers as the pages show them."""

import pytest

from worker.dashboard.environment import icon
from worker.dashboard.labels import advice, rate, size
from worker.failures.alert_types import AlertType
from worker.flow.circuit_breakers import OPERATOR


@pytest.mark.parametrize(
    ("octets", "shown"),
    [(0, "0 B"), (1023, "1,023 B"), (5120, "5 KiB"), (1_610_612, "1.54 MiB"), (10**12, "931 GiB")],
)
def test_bytes_are_shown_with_three_digits(octets, shown):
    assert size(octets) == shown


@pytest.mark.parametrize(
    ("per_second", "shown"), [(0, "0"), (0.03, "<0.1"), (0.5, "0.5"), (9.96, "10.0"), (1_234, "1,234")]
)
def test_a_rate_that_is_not_nothing_is_not_shown_as_nothing(per_second, shown):
    assert rate(per_second) == shown


def test_a_pause_by_a_refusal_has_a_next_step_and_one_by_an_operator_has_none():
    assert advice(AlertType.ACCESS_DENIED).startswith("The credentials lack a permission")
    assert advice(OPERATOR) == ""


def test_environments_have_icons_that_differ_and_an_initial_is_no_markup():
    assert icon("production") != icon("staging")
    assert icon("staging") == icon("staging")
    assert ">&lt;</text>" in icon("<script>")
