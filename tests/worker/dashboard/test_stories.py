"""An operator's stories in a real browser, over the real stack. Only Firehose is a fake."""

import re
from contextlib import contextmanager
from itertools import count
from urllib.request import urlopen

import pytest
from axe import violations
from chaos import in_full
from stack import Stack
from waiting import eventually
from warm_start import warm_start

from devstack import processes
from devstack.browser import NAMELESS, REPEATED_IDS, browser, find_browser
from devstack.firehose import FakeFirehose
from devstack.ports import free_port
from worker.broker.client import has_workers
from worker.failures import alerts
from worker.failures.alert_types import AlertType, Failure
from worker.failures.alerts import Cause
from worker.failures.dead_lettering import Undeliverable
from worker.failures.dead_letters import Message
from worker.flow.circuit_breakers import OPERATOR
from worker.queues import CHANGES_QUEUE, FORWARD

BROWSER = find_browser()
MAX_ALERTS = 1_000
"""A tenth of the entries that the list of alerts holds."""
FLOOD = 1_050
"""Invalid messages, more than it holds."""
MAX_PAGE_BYTES = 100_000
WIDE, NARROW = 1280, 390
"""Of a screen and of a telephone, in CSS pixels."""
MOST_TABS = 60
"""Presses of the Tab key that lead to any control of a page."""
PAGES = ("/alerts", "/alerts/types", "/streams", "/dead-letters", "/broker")
PENDING = "#pending-alerts"

pytestmark = pytest.mark.skipif(BROWSER is None, reason="no chromium on PATH (apt-get install chromium)")


@pytest.fixture(scope="module")
def page():
    with browser(BROWSER) as page:
        yield page


@pytest.fixture(scope="module")
def servers(tmp_path_factory):
    directory = tmp_path_factory.mktemp("stories")
    with processes.redis(directory, "--databases", "64") as (_, url), FakeFirehose() as firehose:
        pairs = zip(count(0, 2), count(1, 2), strict=False)
        yield lambda: Stack(directory, url, firehose, next(pairs))


@pytest.fixture
def stack(servers):
    """A stack of its own for each story. No worker runs yet."""
    stack = servers()
    stack.configure("main")
    return stack


@contextmanager
def dashboard(stack):
    """The URL of a dashboard of this stack."""
    port = free_port()
    env = {**stack.environment, "FLOWER_UNAUTHENTICATED_API": "true"}
    with processes.dashboard(stack.directory / f"dashboard-{port}.log", env, port, warm_start):
        yield f"http://{processes.LOOPBACK}:{port}"


def open_page(page, url):
    """Open a page and wait until its scripts have run."""
    page.resize(1280, 900)
    page.call("Page.navigate", url=url)
    eventually(lambda: page.holds(f"document.readyState == 'complete' && location.href == '{url}'"))


def follow(page, selector):
    """Click what leads to another page, or to this one anew, and wait for it."""
    page.evaluate("window.isOld = true")
    page.click(selector)
    eventually(lambda: page.holds("!window.isOld && document.readyState == 'complete'"))


def kill_a_message(stack, audience, **failure):
    """A batch of a stream is a dead letter, and its stream is paused: what a permanent refusal leaves."""
    stream = audience.stream
    stack.services.circuit_breakers.pause(stream, AlertType.ACCESS_DENIED)
    stack.services.dead_lettering.dead_letter(
        Undeliverable(
            f"letter-{audience.id}",
            Message(stream.task, stream.queue, {"records": ["a"]}),
            Failure(AlertType.ACCESS_DENIED, "AccessDeniedException", "attach the policy"),
            records=500,
            stream=stream,
            connection_ids=[audience.connection_id],
            audience_ids=[audience.id],
        )
    )


def flood(stack):
    """One sender's invalid messages, each dead-lettered as the producer task does it."""
    for number in range(FLOOD):
        stack.services.dead_lettering.dead_letter(
            Undeliverable(
                f"invalid-{number}",
                Message(FORWARD, CHANGES_QUEUE, {"changes": [{}]}),
                Failure(AlertType.INVALID_CHANGE, "ValidationError", "1 of 1 invalid, at 0"),
                records=1,
                cause=Cause(FORWARD, f"message-{number}", f"gen{number % 9}@bad-caller"),
            )
        )


def test_a_flood_of_invalid_messages_hides_neither_a_paused_stream_nor_its_alert(page, stack, monkeypatch):
    monkeypatch.setattr(alerts, "MAX_ALERTS", MAX_ALERTS)
    audience = stack.audience()
    kill_a_message(stack, audience)
    flood(stack)
    with dashboard(stack) as url:
        open_page(page, f"{url}/alerts")

        assert page.text("#alerts-open-fatal") == "1"
        assert page.text("#alerts-open") == "2"
        assert page.text(f"#connection-{audience.connection_id} summary").startswith("1 open and fatal")
        assert f"raised {FLOOD:,} times, {FLOOD:,} records" in page.text("#connection-none summary")
        assert page.evaluate("document.documentElement.outerHTML.length") < MAX_PAGE_BYTES
        eventually(lambda: page.text(PENDING) == "1 fatal alerts are open", what="the red count")

        open_page(page, f"{url}/streams")
        assert page.text("#streams-paused") == "1 of 1"
        assert page.text("#streams-dead") == f"{FLOOD + 500:,}"


def test_an_alert_appears_is_found_and_replayed_and_the_red_count_falls(page, stack):
    audience = stack.audience(stream="missing")
    with stack.worker(), dashboard(stack) as url:
        open_page(page, f"{url}/alerts")
        assert page.text("#alerts-open") == "0"

        stack.send(*audience.added("phileas"))
        eventually(lambda: page.text("#alerts-open-fatal") == "1", what="the alert, on the open page")
        eventually(lambda: page.text(PENDING).startswith("1"), what="the red count")

        open_page(page, f"{url}/alerts?search=missing")
        assert "Stream Not Found" in page.text("#alert-groups")
        assert "phileas" not in page.text("body")
        follow(page, "a[href^='/dead-letters/']")
        stack.firehose.create("missing", audience.stream.region)
        follow(page, "button[value=replay]")
        eventually(lambda: not stack.services.dead_letters.all(), what="the replay")

        open_page(page, f"{url}/streams/{audience.stream.queue}")
        if page.text("#state") == "paused":
            follow(page, "button[value=resume]")
        assert eventually(audience.customers) == ["phileas"]
        eventually(lambda: page.text(PENDING) == "", what="a navigation without a red count")

        open_page(page, f"{url}/alerts?search=missing")
        assert "replayed or discarded" in page.text("#alert-groups")
        assert not page.evaluate("document.querySelectorAll(\"a[href^='/dead-letters/']\").length")


def test_a_stream_is_paused_and_resumed_by_its_buttons(page, stack):
    audience = stack.audience()
    with dashboard(stack) as url:
        open_page(page, f"{url}/streams/{audience.stream.queue}")
        follow(page, "button[value=pause]")

        assert page.text("#state") == "paused"
        assert stack.services.circuit_breakers.get(audience.stream).reason == OPERATOR

        follow(page, "button[value=resume]")

        assert page.text("#state") == "flowing"
        assert stack.services.circuit_breakers.get(audience.stream) is None


def test_a_delivery_is_seen_in_the_metrics_and_on_the_stream_s_page(page, stack):
    audience = stack.audience()
    with stack.worker(), dashboard(stack) as url:
        stack.send(*audience.added("phileas", "passepartout"))
        eventually(lambda: stack.services.counters.of(audience.stream).delivered == 2)

        with urlopen(f"{url}/metrics") as answer:
            metrics = answer.read().decode()
        labels = f'outcome="delivered",stream="{audience.stream.queue}"'
        assert f"audience_firehose_records_total{{{labels}}} 2\n" in metrics
        assert "audience_firehose_delivery_seconds_count 2\n" in metrics

        open_page(page, f"{url}/streams/{audience.stream.queue}")
        assert re.fullmatch(r"\d+ m?s / \d+ m?s", page.text("#quantiles"))
        assert page.text("#billed") == "10 KiB"
        assert page.evaluate("document.querySelector('.sparkline').getAttribute('aria-label')") == (
            "2 delivered and 0 refused in the last hour"
        )


def test_the_dead_letters_of_a_stream_are_replayed_from_its_page(page, stack):
    audience, other = stack.audience(), stack.audience(stream="other")
    kill_a_message(stack, audience)
    kill_a_message(stack, other)
    with dashboard(stack) as url:
        open_page(page, f"{url}/streams/{audience.stream.queue}")
        follow(page, "#replay")

        eventually(lambda: page.text("#progress") == "Finished: 1 of 1 done.", what="the end of the job")
        assert [letter.stream for letter in stack.services.dead_letters.all()] == [other.stream]


def test_the_dead_letters_of_a_type_and_connection_are_replayed_from_system_alerts(page, stack):
    audience, other = stack.audience(), stack.audience()
    kill_a_message(stack, audience)
    kill_a_message(stack, other)
    with dashboard(stack) as url:
        open_page(page, f"{url}/alerts?connection={audience.connection_id}")
        follow(page, "#alert-groups button[value=replay]")

        eventually(lambda: page.text("#progress") == "Finished: 1 of 1 done.", what="the end of the job")
        assert [letter.stream for letter in stack.services.dead_letters.all()] == [other.stream]
        open_page(page, f"{url}/alerts?connection={audience.connection_id}")
        assert "resolved" in page.text("#alert-groups")
        assert page.text("#alert-groups button") == ""


def test_an_action_that_holds_records_back_asks_first(page, stack):
    audience = stack.audience()
    with dashboard(stack) as url:
        open_page(page, f"{url}/streams/{audience.stream.queue}")
        page.evaluate("window.confirm = function (question) { window.asked = question; return false; }")
        page.click("button[value=pause]")

        assert "Its records wait in the broker" in page.evaluate("window.asked")
        assert stack.services.circuit_breakers.get(audience.stream) is None


def test_the_broker_page_shows_the_backlog_of_a_paused_stream_though_no_worker_runs(page, stack):
    audience = stack.audience()
    stack.services.circuit_breakers.pause(audience.stream, OPERATOR)
    for _ in range(3):
        stack.call(audience.stream.task, {}, queue=audience.stream.queue)
    stack.send(*audience.added("phileas"))
    with dashboard(stack) as url:
        open_page(page, f"{url}/broker")

        rows = page.evaluate(
            "Array.from(document.querySelectorAll('#queue-table tbody tr'), r => r.innerText)"
        )
        cells = {row.split()[0]: row.split()[1:3] for row in rows}
        assert cells == {CHANGES_QUEUE: ["1", "0"], audience.stream.queue: ["3", "0"]}


def test_a_banner_says_that_no_worker_answers_until_one_does(page, stack):
    stack.audience()
    with dashboard(stack) as url:
        open_page(page, f"{url}/streams")
        assert "No worker answers" in page.text("#no-workers")
        assert not has_workers(stack.caller)

        with stack.worker():
            eventually(lambda: page.text("#no-workers") == "", what="the open page without the banner")
            assert has_workers(stack.caller)


def test_alerts_are_opened_and_acknowledged_by_keyboard(page, stack):
    audience = stack.audience()
    kill_a_message(stack, audience)
    other = stack.audience()
    kill_a_message(stack, other)
    with dashboard(stack) as url:
        open_page(page, f"{url}/alerts")
        press_tab_until(page, f"closest('details')?.id == 'connection-{audience.connection_id}'")
        page.press("Enter")
        press_tab_until(page, "matches('details details summary')")
        page.press("Enter")
        press_tab_until(page, "name == 'acknowledge'")
        page.press("Enter")

        eventually(lambda: page.holds("document.getElementById('alerts-open').innerText == '1'"))


def press_tab_until(page, condition):
    """Move the focus until the focused element fulfils a condition."""
    for _ in range(MOST_TABS):
        page.press("Tab")
        if page.evaluate(f"!!(document.activeElement.{condition})"):
            return
    raise AssertionError(f"no control that the Tab key reaches fulfils: {condition}")


@pytest.fixture(scope="module")
def eventful(servers):
    """The URL of a dashboard with a paused stream, an alert and a dead letter, and the paths of its pages."""
    stack = servers()
    stack.configure("main")
    audience = stack.audience()
    kill_a_message(stack, audience)
    paths = [*PAGES, f"/streams/{audience.stream.queue}", f"/dead-letters/letter-{audience.id}"]
    with dashboard(stack) as url:
        yield [f"{url}{path}" for path in paths]


def test_no_page_scrolls_sideways_on_a_telephone(page, eventful):
    for url in eventful:
        open_page(page, url)
        page.evaluate("document.querySelectorAll('details').forEach(found => { found.open = true; })")
        page.resize(NARROW, 844)
        assert page.evaluate("document.documentElement.scrollWidth") <= NARROW, url


def test_no_table_scrolls_in_itself_on_a_screen(page, eventful):
    for url in eventful:
        open_page(page, url)
        page.resize(WIDE, 900)
        page.evaluate("document.querySelectorAll('details').forEach(found => { found.open = true; })")
        hidden = "[...document.querySelectorAll('.table-responsive')].map(x => x.scrollWidth - x.clientWidth)"
        assert not any(page.evaluate(hidden)), url


@pytest.mark.parametrize(
    ("width", "theme"), [(WIDE, "light"), (NARROW, "dark"), *in_full((WIDE, "dark"), (NARROW, "light"))]
)
def test_axe_finds_nothing_serious_on_any_page(page, eventful, theme, width):
    page.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": theme}])
    for url in eventful:
        open_page(page, url)
        page.resize(width, 844)
        page.evaluate("document.querySelectorAll('details').forEach(found => { found.open = true; })")
        assert page.evaluate("document.documentElement.dataset.bsTheme") == theme
        assert violations(page) == [], url


def test_the_count_of_fatal_alerts_is_seen_on_a_telephone_without_opening_the_menu(page, eventful):
    count = "#pending-alerts-narrow"
    open_page(page, eventful[0])
    page.resize(NARROW, 844)
    eventually(lambda: page.text(count) == "1 fatal alerts are open", what="the count, on the open page")
    for url in eventful:
        open_page(page, url)
        page.resize(NARROW, 844)
        assert page.text(count) == "1 fatal alerts are open", url


def test_every_control_has_a_name_and_every_id_is_one_element_s(page, eventful):
    for url in eventful:
        open_page(page, url)
        page.evaluate("document.querySelectorAll('details').forEach(found => { found.open = true; })")
        assert page.evaluate(NAMELESS) == [], url
        assert page.evaluate(REPEATED_IDS) == [], url
        assert page.evaluate("document.querySelectorAll('h1').length") == 1, url
        assert page.evaluate("document.title"), url


def test_a_page_loads_nothing_from_another_host(page, eventful):
    for url in eventful:
        open_page(page, url)
        loaded = page.evaluate("performance.getEntriesByType('resource').map(entry => entry.name)")
        origin = page.evaluate("location.origin")
        assert loaded, url
        assert [name for name in loaded if not name.startswith((origin, "data:"))] == [], url
