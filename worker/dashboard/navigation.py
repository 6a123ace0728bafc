"""Flower's templates and ours: our pages are in Flower's navigation, the environment's name on every page.

Flower has no place for further links or names. They go into its own templates when those are loaded,
so that whatever else an installed Flower shows stays as it is.
"""

import logging
from pathlib import Path

import flower
from tornado.template import DictLoader

FLOWER_TEMPLATES = Path(flower.__file__).with_name("templates")
TEMPLATES = Path(__file__).with_name("templates")
NAVIGATION = "navbar.html"
LAST_LINK = "reverse_url('broker')"
MENU_BUTTON = '<button class="navbar-toggler"'
NARROW_STATUS = '{% include "narrow_status.html" %}'
WORKER = "worker.html"
CAPTION = "<caption>Active queues</caption>"
CAPTION_WITH_NOTE = """<caption>Active queues. No worker consumes that of a paused stream:
 <a href="{{ reverse_url('broker') }}">Broker</a> lists all.</caption>"""
BASE = "base.html"
END_OF_HEAD = "</head>"
STYLES = """<link href="{{ reverse_url('audience-static', 'pages.css') }}" rel="stylesheet">"""
TITLE = "<title>"
NAMED_TITLE = '<title>{% include "environment_title.html" %}'
ICON = "{{ static_url('favicon.ico') }}"
NAMED_ICON = '{% include "environment_icon.html" %}'
LINKS = '{% include "links.html" %}'

logger = logging.getLogger(__name__)


def loader() -> DictLoader:
    """Every template by its name."""
    flowers = _sources(FLOWER_TEMPLATES)
    changed = {
        BASE: with_environment(flowers[BASE]),
        NAVIGATION: with_links(flowers[NAVIGATION]),
        WORKER: with_note(flowers[WORKER]),
    }
    return DictLoader({**flowers, **_sources(TEMPLATES), **changed})


def with_links(navigation: str) -> str:
    """Flower's navigation with ours after its last link; as it is where there is no such place.

    A narrow screen hides the links in a menu. The number of fatal alerts is beside its button, too.
    """
    before, found, after = navigation.partition(LAST_LINK)
    rest_of_item, end, others = after.partition("</li>")
    if not (found and end):
        logger.warning("Flower's navigation has changed: open /alerts and /streams by their address")
        return navigation
    linked = f"{before}{found}{rest_of_item}{end}{LINKS}{others}"
    return linked.replace(MENU_BUTTON, f"{NARROW_STATUS}{MENU_BUTTON}", 1)


def with_environment(base: str) -> str:
    """Flower's frame of all pages with our style sheet, and with the environment in title and icon."""
    if not all(found in base for found in (END_OF_HEAD, TITLE, ICON)):
        logger.warning("Flower's frame of pages has changed: styles, titles or icons may be Flower's alone")
    return (
        base.replace(END_OF_HEAD, f"{STYLES}{END_OF_HEAD}", 1)
        .replace(TITLE, NAMED_TITLE, 1)
        .replace(ICON, NAMED_ICON, 1)
    )


def with_note(worker_page: str) -> str:
    """Flower's page of a worker, with a note of the queues that it does not list."""
    if CAPTION not in worker_page:
        logger.warning("Flower's page of a worker has changed: it does not say where paused queues are")
    return worker_page.replace(CAPTION, CAPTION_WITH_NOTE)


def _sources(directory: Path) -> dict[str, str]:
    return {path.name: path.read_text("utf-8") for path in directory.glob("*.html")}
