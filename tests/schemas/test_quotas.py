"""The texts of stream quotas that are accepted, and those that are refused."""

import pytest

from schemas.quotas import stated_figures

KIB, MIB = 2**10, 2**20

WRITTEN = {
    "1MiB/s": {"bytes": MIB},
    "500KiB/s": {"bytes": 500 * KIB},
    "1.5MiB/s": {"bytes": 3 * MIB // 2},
    "0.1KiB/s": {"bytes": 102},
    "2000000B/s": {"bytes": 2_000_000},
    "200requests/s": {"requests": 200},
    "50000records/s": {"records": 50_000},
    "1MiB/s+200requests/s": {"bytes": MIB, "requests": 200},
    "1records/s+1requests/s+1B/s": {"records": 1, "requests": 1, "bytes": 1},
}


@pytest.mark.parametrize(("text", "figures"), WRITTEN.items(), ids=WRITTEN)
def test_a_quota_s_text_has_the_stated_figures_alone(text, figures):
    assert stated_figures(text) == figures


NONE_AT_ALL = [
    "", " ", "1", "1MiB", "MiB/s", "1MiB/m", "-1MiB/s", "1e3B/s", "1_000B/s", "1 MiB/s", "1mib/s", "1GiB/s",
    ".5MiB/s", "1.MiB/s", "1.5requests/s", "1.5records/s", "1.5B/s", "\u0661MiB/s", "1MiB/s\n",
    "9" * 5000 + "B/s",
]  # fmt: skip


@pytest.mark.parametrize("text", NONE_AT_ALL)
def test_a_text_that_is_no_quota_is_refused(text):
    with pytest.raises(ValueError, match="is not a quota such as"):
        stated_figures(text)


@pytest.mark.parametrize("part", ["1MB", "", "200"])
@pytest.mark.parametrize("joined", ["1MiB/s+{}", "{}+1MiB/s", "{}"])
def test_the_part_that_is_wrong_is_shown_with_three_that_are_right(joined, part):
    with pytest.raises(ValueError) as raised:
        stated_figures(joined.format(part))
    assert str(raised.value) == f"{part!r} is not a quota such as 1MiB/s, 200requests/s or 50000records/s"


@pytest.mark.parametrize(
    "nothing", ["0MiB/s", "0.0KiB/s", "0requests/s", "0records/s", "0B/s", "0.0001KiB/s"]
)
def test_a_quota_of_nothing_is_refused_with_what_stops_a_stream(nothing):
    with pytest.raises(ValueError, match=f"'{nothing}' would let nothing through; `audience-firehose pause`"):
        stated_figures(nothing)


@pytest.mark.parametrize(
    ("text", "twice"),
    [
        ("1MiB/s+500KiB/s", "bytes"),
        ("1requests/s+1requests/s", "requests"),
        ("1B/s+2records/s+2records/s", "records"),
    ],
)
def test_a_figure_that_is_stated_twice_is_refused(text, twice):
    with pytest.raises(ValueError, match=f"states its {twice} twice"):
        stated_figures(text)
