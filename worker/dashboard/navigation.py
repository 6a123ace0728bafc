"""Flower's templates and ours, with our pages in Flower's navigation.

Flower has no place for further links. They go into its own templates when those are loaded,
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
WORKER = "worker.html"
CAPTION = "<caption>Active queues</caption>"
CAPTION_WITH_NOTE = """<caption>Active queues. No worker consumes that of a paused stream:
 <a href="{{ reverse_url('broker') }}">Broker</a> lists all.</caption>"""
LINKS = '{% include "links.html" %}'

logger = logging.getLogger(__name__)


def loader() -> DictLoader:
    """Every template by its name."""
    flowers = _sources(FLOWER_TEMPLATES)
    changed = {NAVIGATION: with_links(flowers[NAVIGATION]), WORKER: with_note(flowers[WORKER])}
    return DictLoader({**flowers, **_sources(TEMPLATES), **changed})


def with_links(navigation: str) -> str:
    """Flower's navigation with ours after its last link; as it is where there is no such place."""
    before, found, after = navigation.partition(LAST_LINK)
    rest_of_item, end, others = after.partition("</li>")
    if not (found and end):
        logger.warning("Flower's navigation has changed: open /alerts and /streams by their address")
        return navigation
    return f"{before}{found}{rest_of_item}{end}{LINKS}{others}"


def with_note(worker_page: str) -> str:
    """Flower's page of a worker, with a note of the queues that it does not list."""
    if CAPTION not in worker_page:
        logger.warning("Flower's page of a worker has changed: it does not say where paused queues are")
    return worker_page.replace(CAPTION, CAPTION_WITH_NOTE)


def _sources(directory: Path) -> dict[str, str]:
    return {path.name: path.read_text("utf-8") for path in directory.glob("*.html")}
