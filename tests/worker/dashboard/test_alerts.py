"""Which alerts the System Alerts page shows."""

from datetime import UTC, datetime, timedelta
from urllib.parse import parse_qsl

import pytest

from worker.dashboard.alerts import ROWS_PER_PAGE, Query, alert_page, read_query
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
    page = alert_page(alerts, states or {}, query, NOW.timestamp())
    return [row.alert.id for row in page.rows]


OLD = an_alert("old", age=timedelta(hours=13))
OTHER = an_alert("other", AlertType.ACCESS_DENIED, connections=("1-aa", "2-bb"))


@pytest.mark.parametrize(
    ("query", "ids"),
    [
        (Query(), ["other", "old"]),
        (Query(range="12h"), ["other"]),
        (Query(range="24h"), ["other", "old"]),
        (Query(type="Access Denied"), ["other"]),
        (Query(type="Invalid Change"), []),
        (Query(connection="1-aa"), ["other", "old"]),
        (Query(connection="2-bb"), ["other"]),
        (Query(connection="2"), []),
        (Query(state="open"), ["other"]),
        (Query(state="acknowledged"), ["old"]),
        (Query(state="acknowledged", connection="2-bb"), []),
    ],
)
def test_filters(query, ids):
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


def test_all_time_is_without_end():
    assert shown(Query(range="all"), an_alert("old", age=timedelta(days=4000))) == ["old"]


def test_a_page_holds_so_many_and_links_to_its_neighbours():
    alerts = [an_alert(str(number)) for number in range(2 * ROWS_PER_PAGE + 1)]
    middle = alert_page(alerts, {}, Query(page="2", type=AlertType.RETRY_LIMIT_EXCEEDED), NOW.timestamp())

    assert [row.alert.id for row in middle.rows] == [str(n) for n in range(ROWS_PER_PAGE, 2 * ROWS_PER_PAGE)]
    assert (middle.first, middle.last, middle.matching) == (101, 200, 201)
    assert dict(parse_qsl(middle.newer.removeprefix("?"))) == {"type": "Retry Limit Exceeded"}
    assert dict(parse_qsl(middle.older.removeprefix("?"))) == {"type": "Retry Limit Exceeded", "page": "3"}


def test_the_first_page_has_none_before_and_the_last_none_after():
    full = [an_alert(str(number)) for number in range(ROWS_PER_PAGE)]
    page = alert_page(full, {}, Query(), NOW.timestamp())

    assert (page.newer, page.older) == (None, None)


@pytest.mark.parametrize("alerts", [[], [an_alert()]])
def test_a_page_past_the_end_is_the_last_one(alerts):
    page = alert_page(alerts, {}, Query(page="99"), NOW.timestamp())

    assert len(page.rows) == len(alerts)
    assert (page.newer, page.older) == (None, None)


def test_open_ones_are_counted_whatever_is_asked_for():
    alerts = [an_alert("a"), an_alert("b", severity="warning"), an_alert("c")]
    page = alert_page(alerts, {"c": AlertState.RESOLVED}, Query(type="Invalid Change"), NOW.timestamp())

    assert (page.matching, page.total, page.open, page.open_fatal) == (0, 3, 2, 1)


def test_the_state_s_own_alerts_fit(services):
    failure = Failure(AlertType.ACCESS_DENIED, "AccessDeniedException", "no")
    for number in range(2):
        services.alerts.raise_alert(
            failure, stream=Stream("main", "us-east-1", f"s{number}"), connection_ids=["c"]
        )
    services.alerts.acknowledge(services.alerts.all()[1].id)

    page = alert_page(services.alerts.all(), services.alerts.states(), Query(), services.clock())

    assert [(row.alert.delivery_stream_name, row.state) for row in page.rows] == [
        ("s1", AlertState.OPEN),
        ("s0", AlertState.ACKNOWLEDGED),
    ]
    assert page.connections == ["c"]


def test_a_link_leads_to_the_same_query():
    query = Query(connection="1-aa", type="500 - Internal Server Error", state="open", range="7d", page="3")

    assert read_query(dict(parse_qsl(query.link().removeprefix("?")))) == query


def test_an_empty_form_is_the_default_query():
    assert read_query({"connection": "", "type": "", "state": "", "range": ""}) == Query()


@pytest.mark.parametrize(
    "arguments",
    [{"range": "2h"}, {"type": "Nonsense"}, {"state": "lost"}, {"page": "0"}, {"page": "-1"}, {"page": "²"}],
)
def test_what_makes_no_sense_is_named_and_not_repeated(arguments):
    ((name, value),) = arguments.items()
    with pytest.raises(ValueError, match=f"^{name}: must be") as refused:
        read_query(arguments)

    assert value not in str(refused.value).split()
