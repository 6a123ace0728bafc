"""The pages in a browser, with their scripts."""

import html
import re
import subprocess

import pytest

from devstack.browser import find_browser

BROWSER = find_browser()
WAIT_SECONDS = 60
"""Seconds."""

pytestmark = pytest.mark.skipif(BROWSER is None, reason="no chromium on PATH (apt-get install chromium)")


@pytest.fixture
def browse(dashboard, tmp_path):
    """Opens a page of the dashboard and returns what it became, as markup."""
    options = ("--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path}", "--dump-dom")

    def browse(path):
        command = [BROWSER, *options, f"{dashboard.url}{path}"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=WAIT_SECONDS, check=True)
        assert re.search(r'<html lang="en" data-bs-theme="(light|dark)">', done.stdout), (
            "Flower's scripts ran"
        )
        return done.stdout

    return browse


def cells(page):
    """The text of each row of a page's table."""
    body = re.search(r"<tbody>(.*)</tbody>", page, re.DOTALL)[1]
    return [html.unescape(re.sub(r"<[^>]*>", " ", row)) for row in body.split("</tr>")[:-1]]


def title(page):
    return re.search(r"<title>(.*?)</title>", page)[1]


def test_the_alerts_page_shows_spiteful_names_as_text(browse, spiteful_name):
    page = browse("/alerts")

    assert title(page) == "System Alerts · audience-firehose", "a stream's name must not run as a script"
    assert spiteful_name in html.unescape(page)
    assert "there is no such stream" in page
    assert re.search(r'<a [^>]*aria-current="page"[^>]*>System Alerts</a>', page)


def test_the_alerts_page_shows_the_type_that_is_chosen(browse):
    page = browse("/alerts?type=Stream+Not+Found&range=1h")

    assert page.count('<details class="workers-table-card') == 1
    assert '<option value="Stream Not Found" selected="">' in page


def test_the_streams_page_shows_trouble_first(browse):
    page = browse("/streams")

    assert title(page) == "Streams · audience-firehose"
    paused, failing, _, _, flowing, *_ = cells(page)
    assert "next probe at" in failing
    assert "1,234" in flowing
    assert "Stream Not Found" in paused


def test_flower_s_own_page_leads_to_ours(browse):
    page = browse("/workers")

    assert title(page) == "Workers · Flower"
    assert re.search(r'href="/alerts"[^>]*>System Alerts<', page)
    assert re.search(r'href="/streams"[^>]*>Streams<', page)
