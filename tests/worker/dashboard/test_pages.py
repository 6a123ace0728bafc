"""The dashboard over HTTP, as it runs for operators."""

import html
import json
import re
import socket
from concurrent.futures import ThreadPoolExecutor
from uuid import uuid4

import pytest
from celery import Celery
from waiting import eventually

from devstack.processes import LOOPBACK
from worker.failures.alerts import AlertState
from worker.privacy import HIDDEN

SECRET = "phileas@example.com"
FLOWERS_PAGES = ["/", "/workers", "/tasks", "/broker", "/nothing-here", "/logout"]


def rows(page):
    """The text of each row of a page's table."""
    body = re.search(r"<tbody>(.*)</tbody>", page, re.DOTALL)[1]
    return [" ".join(re.sub(r"<[^>]*>", " ", row).split()) for row in body.split("</tr>")[:-1]]


def current(page):
    """The links that a page's navigation says are the page itself."""
    return re.findall(r'aria-current="page">([^<]*)<', page)


def groups(page):
    """The text of each connection's part of the System Alerts page."""
    parts = page.split('<details class="workers-table-card')[1:]
    return [" ".join(html.unescape(re.sub(r"<[^>]*>", " ", part)).split()) for part in parts]


def test_alerts_are_shown_by_connection_with_what_is_known_of_them(dashboard):
    answer = dashboard.get("/alerts")
    found = {("Stream Not Found" in part): part for part in groups(answer.body)}
    assert len(found) == 2

    assert answer.status == 200
    assert "No connection" in found[False]
    assert "Access Denied" in found[False]
    assert "1 open and fatal" in found[True]
    assert "raised 1 time, 500 records, last" in found[True]
    assert "ResourceNotFoundException there is no such stream" in found[True]
    assert re.search(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d", found[True])
    assert "Last time (UTC)" in answer.body


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ("type=Stream+Not+Found", ["Stream Not Found"]),
        ("type=Record+Too+Large", []),
        ("connection=nobody", []),
        ("search=no+such+stream", ["Stream Not Found"]),
    ],
)
def test_filters_in_the_address_choose_the_alerts_shown(dashboard, query, found):
    page = dashboard.get(f"/alerts?{query}").body
    shown = groups(page)

    assert len(shown) == len(found)
    assert all(text in part for text, part in zip(found, shown, strict=True))
    assert ("No alert matches" in page) == (not found)


def test_a_connection_is_a_filter(dashboard, eventful):
    (connection,) = {alert.connection_ids[0] for alert in eventful.alerts.all() if alert.connection_ids}

    page = dashboard.get(f"/alerts?connection={connection}").body

    assert ["Stream Not Found" in part for part in groups(page)] == [True]
    assert f'value="{connection}"' in page


def test_the_form_shows_the_chosen_filters(dashboard):
    page = dashboard.get("/alerts?type=Access+Denied&range=7d&state=open").body

    chosen = re.findall(r'<option value="([^"]*)" selected>', page)
    assert chosen == ["Access Denied", "open", "7d"]


def test_open_alerts_are_counted(dashboard, eventful):
    states = eventful.alerts.states()
    still_open = [alert for alert in eventful.alerts.all() if states.get(alert.id, AlertState.OPEN) == "open"]

    assert f'id="alerts-open">{len(still_open)}<' in dashboard.get("/alerts").body


def test_a_senseless_filter_is_refused(dashboard):
    answer = dashboard.get("/alerts?range=%3Cscript%3E")

    assert answer.status == 400
    assert 'id="problem">range: must be one of 1h, 12h, 24h, 7d, all, custom<' in answer.body


@pytest.mark.parametrize("query", ["", "?connection=%22%3E%3Cscript%3E"])
def test_values_are_escaped_in_html(dashboard, spiteful_name, query):
    page = dashboard.get(f"/alerts{query}").body

    assert spiteful_name not in page
    assert "<script>" not in page
    assert "&lt;script&gt;" in page


def test_the_streams_page_shows_state_and_counters(dashboard):
    answer = dashboard.get("/streams")
    paused, failing, tried, disconnected, flowing, none = rows(answer.body)

    assert answer.status == 200
    assert re.fullmatch(
        r"flowing main, us-east-1 flowing 0 0 delivered / s 0% 0 0 — / — \d{4}-\d\d-\d\d \S+"
        r" 1,234 5 refused 7 anonymous",
        flowing,
    )
    assert re.search(r"paused main, us-east-1 paused Stream Not Found since \d{4}-\d\d-\d\d \S+ 0 ", paused)
    assert re.search(
        r"failing 500 - Internal Server Error, 1 failure in a row since \S+ \S+"
        r" next probe at \d{4}-\d\d-\d\d \S+ 0 ",
        failing,
    )
    assert re.search(r"failing 500 - Internal Server Error, .* one batch probes it 0 ", tried)
    assert re.fullmatch(r"disconnected main, us-east-1 not connected records left: 3 0 .*", disconnected)
    assert none.endswith("40 without a connection")


def test_audiences_without_a_connection_are_named(dashboard):
    page = dashboard.get("/streams").body

    assert "audience 777 (40)" in re.search(r'id="unconnected">(.*?)</p>', page, re.DOTALL)[1]


def test_paused_streams_are_counted_apart_from_failing_ones(dashboard):
    page = dashboard.get("/streams").body

    assert 'id="streams-paused">1 of 5<' in page
    assert 'id="streams-failing">and 2 failing<' in page


def test_waiting_batches_are_counted(place, dashboard):
    app = Celery(broker=place.environment["CELERY_BROKER_URL"], set_as_current=False)
    for _ in range(3):
        app.send_task(
            "audience.deliver.us-east-1", queue="firehose.main.us-east-1.paused", ignore_result=True
        )

    paused, *_ = rows(dashboard.get("/streams").body)

    assert re.search(r"since \S+ \S+ 3 ", paused)


@pytest.mark.parametrize("path", [*FLOWERS_PAGES, "/alerts", "/streams"])
def test_every_page_links_to_ours(dashboard, path):
    page = dashboard.get(path).body

    assert re.search(r'href="/alerts"[^>]*>System Alerts<', page)
    assert re.search(r'href="/streams"[^>]*>Streams<', page)


@pytest.mark.parametrize(
    ("path", "name"), [("/alerts", "System Alerts"), ("/streams", "Streams"), ("/tasks", "Tasks")]
)
def test_the_navigation_marks_the_current_page(dashboard, path, name):
    assert current(dashboard.get(path).body) == [name]


@pytest.mark.parametrize("path", ["/alerts", "/streams"])
def test_tables_can_be_read_aloud(dashboard, path):
    page = dashboard.get(path).body

    tables = page.count("<table")
    assert tables == page.count("<caption") or page.count('role="region" aria-label="Alerts of') == tables
    assert "<th" in page
    assert all('scope="' in header for header in re.findall(r"<th [^>]*>", page))
    assert page.count("<h1") == 1
    labelled = set(re.findall(r'<label [^>]*for="([^"]*)"', page))
    assert labelled == set(re.findall(r'<(?:select|input) [^>]*id="(filter-[^"]*)"', page))


def test_plain_flower_stays_plain(flower):
    assert flower.get("/alerts").status == 404
    assert "System Alerts" not in flower.get("/workers").body


@pytest.fixture(scope="module")
def event(place, dashboard, flower):
    """The ID of a task whose sender has shown everybody its arguments."""
    caller = Celery(
        broker=place.environment["CELERY_BROKER_URL"], task_send_sent_event=True, set_as_current=False
    )
    task_id = str(uuid4())

    def send_and_check():
        caller.send_task("audience.forward", kwargs={"email": SECRET}, queue="nobody", task_id=task_id)
        return all(site.get(f"/api/task/info/{task_id}").status == 200 for site in (dashboard, flower))

    eventually(send_and_check)
    return task_id


def test_plain_flower_shows_what_a_task_carries(flower, event):
    assert SECRET in flower.get(f"/api/task/info/{event}").body


@pytest.mark.parametrize(
    "path",
    [
        "/api/tasks",
        "/api/task/info/{event}",
        "/task/{event}",
        "/tasks/datatable?draw=1&start=0&length=10&search[value]=audience&order[0][column]=0&columns[0][data]=name",
    ],
)
def test_the_dashboard_does_not_show_what_a_task_carries(dashboard, event, path):
    answer = dashboard.get(path.format(event=event))

    assert answer.status == 200
    assert event in answer.body
    assert HIDDEN in answer.body
    assert SECRET not in answer.body


def test_a_search_does_not_find_the_arguments_of_tasks(dashboard, event):
    assert event in json.loads(dashboard.get("/api/tasks?search=audience.forward").body)
    assert json.loads(dashboard.get(f"/api/tasks?search={SECRET}").body) == {}


def test_results_are_not_shown(dashboard, event):
    assert dashboard.get(f"/api/task/result/{event}").status == 403


def test_a_talkative_worker_s_tasks_are_not_shown_either(place, dashboard, talkative_worker):
    caller = Celery(broker=place.environment["CELERY_BROKER_URL"], set_as_current=False)
    sent = caller.send_task("talkative.remember", kwargs={"email": SECRET}, queue="talk", countdown=3600)

    def workers():
        return json.loads(dashboard.get("/api/workers?refresh=true").body)

    name = next(name for name in eventually(workers) if name.startswith("talkative@"))

    def scheduled():
        answer = dashboard.get(f"/api/workers?refresh=true&workername={name}").body
        return answer if sent.id in answer else None

    for answer in (eventually(scheduled), dashboard.get(f"/worker/{name}").body):
        assert sent.id in answer
        assert HIDDEN in answer
        assert SECRET not in answer


@pytest.fixture(scope="module")
def guarded(place, eventful):
    """A dashboard with a password, under a path."""
    with place.dashboard({"FLOWER_BASIC_AUTH": "admin:secret", "FLOWER_URL_PREFIX": "watch"}) as site:
        yield site


REFUSED = {401, 429}
"""After ten wrong passwords the client's address is slowed down, whoever asks next."""
PROTECTED = [
    "/watch/alerts",
    "/watch/streams",
    "/watch/workers",
    "/watch/api/tasks",
    "/watch/api/task/result/1",
]


@pytest.mark.parametrize("path", PROTECTED)
@pytest.mark.parametrize("credentials", ["admin:wrong", "guest:secret", ":", None])
def test_every_page_needs_the_password(guarded, path, credentials):
    assert guarded.get(path, credentials).status in REFUSED


@pytest.mark.parametrize("path", ["/watch/alerts", "/watch/streams", "/watch/workers"])
def test_the_dashboard_works_under_a_path_with_a_password(guarded, path):
    eventually(lambda: guarded.get(path, "admin:secret").status == 200)
    answer = guarded.get(path, "admin:secret")

    assert 'href="/watch/alerts"' in answer.body
    assert 'href="/watch/streams"' in answer.body
    assert 'action="/alerts"' not in answer.body


def test_our_pages_ask_for_the_login_of_oauth(place, eventful):
    oauth = {
        "FLOWER_AUTH": "someone@example.com",
        "FLOWER_AUTH_PROVIDER": "flower.views.auth.GoogleAuth2LoginHandler",
        "FLOWER_OAUTH2_KEY": "key",
        "FLOWER_OAUTH2_SECRET": "secret",
        "FLOWER_OAUTH2_REDIRECT_URI": "http://localhost/login",
    }
    with place.dashboard(oauth) as site:
        for path in ("/alerts", "/streams"):
            answer = site.get(path)
            assert answer.status == 302
            assert answer.location.startswith("/login?")


def test_a_page_without_redis_says_that_redis_does_not_answer(place):
    with socket.create_server((LOOPBACK, 0)) as silent_redis:
        url = f"redis://:hunter2@{LOOPBACK}:{silent_redis.getsockname()[1]}/1"
        with place.dashboard({"AUDIENCE_REDIS_URL": url}) as site, ThreadPoolExecutor() as pool:
            waiting = pool.submit(site.get, "/alerts")
            connection, _ = silent_redis.accept()
            assert site.get("/tasks").status == 200, "a page that waits for Redis holds up no other"
            assert not waiting.done()

            connection.close()
            silent_redis.close()

            for answer in (waiting.result(), site.get("/streams")):
                assert answer.status == 503
                assert "Redis does not answer" in answer.body
                assert "AUDIENCE_REDIS_URL" in answer.body
                assert "hunter2" not in answer.body
