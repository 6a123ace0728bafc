"""Which alerts the System Alerts page shows."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from urllib.parse import parse_qsl

import pytest

from worker.dashboard.alerts import GROUPS_PER_PAGE, Query, alert_page, read_query, section_of
from worker.failures.alert_types import AlertType, Failure
from worker.failures.alerts import Alert, AlertState
from worker.queues import Stream

NOW = datetime(2025, 11, 23, 12, tzinfo=UTC)


def an_alert(
    identifier="a",
    alert_type=AlertType.RETRY_LIMIT_EXCEEDED,
    age=timedelta(),
    connections=("1-aa",),
    severity="fatal",
):
    return Alert(
        id=identifier,
        type=alert_type,
        severity=severity,
        raised_at=(NOW - age).isoformat(timespec="milliseconds"),
        connection_ids=list(connections),
        audience_ids=[1],
        delivery_stream_name="stream",
        region="us-east-1",
        error_code="SomeException",
        message="",
        attempts=1,
        records=1,
        dead_letter_id=None,
    )


def shown(query, *alerts, states=None):
    """The IDs of the alerts on the page, each once, newest first."""
    page = alert_page(alerts, states or {}, query, NOW.timestamp())
    found = {row.alert.id: row for group in page.groups.items for kind in group.types for row in kind.rows}
    return sorted(found, key=lambda identifier: found[identifier].alert.latest, reverse=True)


OLD = an_alert("old", age=timedelta(hours=13))
OTHER = an_alert("other", AlertType.ACCESS_DENIED, connections=("1-aa", "2-bb"))


@pytest.mark.parametrize(
    ("query", "ids"),
    [
        (Query(), ["other"]),
        (Query(range="all"), ["other", "old"]),
        (Query(range="24h"), ["other", "old"]),
        (Query(type="Access Denied"), ["other"]),
        (Query(type="Invalid Change"), []),
        (Query(connection="1-aa", range="24h"), ["other", "old"]),
        (Query(connection="2-bb"), ["other"]),
        (Query(connection="2"), []),
        (Query(state="open"), ["other"]),
        (Query(state="acknowledged", range="24h"), ["old"]),
        (Query(state="acknowledged", connection="2-bb"), []),
    ],
)
def test_a_filter_chooses_alerts(query, ids):
    assert shown(query, OTHER, OLD, states={"old": AlertState.ACKNOWLEDGED}) == ids


@pytest.mark.parametrize(
    ("chosen", "limit"),
    [
        ("1h", timedelta(hours=1)),
        ("12h", timedelta(hours=12)),
        ("24h", timedelta(hours=24)),
        ("7d", timedelta(days=7)),
    ],
)
def test_a_time_range_ends_where_it_says(chosen, limit):
    just_in, just_out = an_alert("in", age=limit), an_alert("out", age=limit + timedelta(seconds=1))

    assert shown(Query(range=chosen), just_in, just_out) == ["in"]


def test_all_time_has_neither_beginning_nor_end():
    assert shown(Query(range="all"), an_alert("old", age=timedelta(days=4000))) == ["old"]


def test_a_custom_range_has_a_beginning_and_an_end():
    query = Query(range="custom", since="2025-11-23T10:00", until="2025-11-23T11:30")
    alerts = [an_alert(str(hours), age=timedelta(hours=hours)) for hours in (0, 1, 2, 3)]

    assert shown(query, *alerts) == ["1", "2"]


@pytest.mark.parametrize("word", ["STREAM", "us-east", "someexc", "out of order", "1-aa", "task-7", "gen1@"])
def test_a_search_finds_an_alert_by_whatever_it_says(word):
    found = replace(an_alert("a"), message="it is Out of order", task_id="task-7", origin="gen1@host")

    assert shown(Query(search=word), found) == ["a"]
    assert shown(Query(search=word + "?"), found) == []


def test_connections_with_the_most_alerts_come_first():
    alerts = [
        an_alert("a", connections=("1-aa",)),
        replace(an_alert("b", connections=("2-bb",)), occurrences=500),
        an_alert("c", connections=()),
        an_alert("d", connections=("1-aa",)),
    ]
    page = alert_page(alerts, {}, Query(), NOW.timestamp())

    assert [(group.connection, group.occurrences) for group in page.groups.items] == [
        ("2-bb", 500),
        ("1-aa", 2),
        ("", 1),
    ]


def test_a_connection_has_its_types_by_frequency_with_first_and_last_time():
    alerts = [
        an_alert("a", age=timedelta(hours=2)),
        an_alert("b", AlertType.ACCESS_DENIED),
        replace(an_alert("c", age=timedelta(hours=1)), last_raised_at=NOW.isoformat(), occurrences=3),
    ]
    (group,) = alert_page(alerts, {"a": AlertState.ACKNOWLEDGED}, Query(), NOW.timestamp()).groups.items
    frequent, rare = group.types

    assert (frequent.type, frequent.occurrences, frequent.open) == (AlertType.RETRY_LIMIT_EXCEEDED, 4, 1)
    assert frequent.first_at.startswith("2025-11-23T10:00")
    assert frequent.last_at.startswith("2025-11-23T12:00")
    assert rare.type == AlertType.ACCESS_DENIED
    assert group.open_fatal == 2


def test_a_plot_has_a_bar_where_something_occurred():
    alerts = [replace(an_alert("a", age=timedelta(hours=6)), occurrences=10), an_alert("b")]
    ((kind,),) = [group.types for group in alert_page(alerts, {}, Query(), NOW.timestamp()).groups.items]

    assert [place for place, _ in kind.bars] == [120, 235], "in the middle and at the end of twelve hours"
    assert kind.bars[0][1] > kind.bars[1][1]


def test_a_page_holds_so_many_connections_and_links_to_its_neighbours():
    alerts = [
        an_alert(str(number), connections=[f"{number}-aa"]) for number in range(2 * GROUPS_PER_PAGE + 1)
    ]
    middle = alert_page(alerts, {}, Query(page="2", type=AlertType.RETRY_LIMIT_EXCEEDED), NOW.timestamp())

    assert (middle.groups.first, middle.groups.last, middle.groups.total) == (21, 40, 41)
    assert dict(parse_qsl(middle.query.link(page=middle.groups.previous_page).removeprefix("?"))) == {
        "type": "Retry Limit Exceeded"
    }
    assert dict(parse_qsl(middle.query.link(page=middle.groups.next_page).removeprefix("?"))) == {
        "type": "Retry Limit Exceeded",
        "page": "3",
    }


@pytest.mark.parametrize("alerts", [[], [an_alert()]])
def test_a_page_past_the_end_is_the_last_one(alerts):
    page = alert_page(alerts, {}, Query(page="99"), NOW.timestamp())

    assert len(page.groups.items) == len(alerts)
    assert (page.groups.previous_page, page.groups.next_page) == (None, None)


def test_a_type_has_an_anchor():
    assert section_of("500 - Internal Server Error") == "500-internal-server-error"


def test_open_ones_are_counted_whatever_is_asked_for():
    alerts = [an_alert("a"), an_alert("b", severity="warning"), an_alert("c")]
    page = alert_page(alerts, {"c": AlertState.RESOLVED}, Query(type="Invalid Change"), NOW.timestamp())

    assert (page.matching_alerts, page.total, page.open, page.open_fatal) == (0, 3, 2, 1)


def test_stored_alerts_are_grouped(services):
    failure = Failure(AlertType.ACCESS_DENIED, "AccessDeniedException", "no")
    for number in range(2):
        services.alerts.raise_alert(
            failure, stream=Stream("main", "us-east-1", f"s{number}"), connection_ids=["c"]
        )
    services.alerts.acknowledge(services.alerts.all()[1].id)

    page = alert_page(services.alerts.all(), services.alerts.states(), Query(), services.clock())

    ((kind,),) = [group.types for group in page.groups.items]
    assert {row.alert.delivery_stream_name: row.state for row in kind.rows} == {
        "s1": AlertState.OPEN,
        "s0": AlertState.ACKNOWLEDGED,
    }
    assert page.connections == ["c"]


def test_a_link_leads_to_the_same_query():
    query = Query(connection="1-aa", type="500 - Internal Server Error", state="open", range="7d", page="3")

    assert read_query(dict(parse_qsl(query.link().removeprefix("?")))) == query


def test_an_empty_form_is_the_default_query():
    assert read_query({"connection": "", "type": "", "state": "", "range": ""}) == Query()


@pytest.mark.parametrize(
    "arguments",
    [
        {"range": "2h"},
        {"type": "Nonsense"},
        {"state": "lost"},
        {"page": "0"},
        {"page": "-1"},
        {"page": "²"},
        {"since": "yesterday"},
    ],
)
def test_a_wrong_parameter_is_named_without_its_value(arguments):
    ((name, value),) = arguments.items()
    with pytest.raises(ValueError, match=f"^{name}: must be") as refused:
        read_query(arguments)

    assert value not in str(refused.value).split()
