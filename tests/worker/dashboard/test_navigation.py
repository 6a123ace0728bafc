"""Our links in Flower's navigation."""

import logging

from worker.dashboard.navigation import (
    CAPTION,
    CAPTION_WITH_NOTE,
    FLOWER_TEMPLATES,
    LINKS,
    NARROW_STATUS,
    NAVIGATION,
    TEMPLATES,
    WORKER,
    loader,
    with_links,
    with_note,
)


def test_our_links_follow_flower_s_and_nothing_else_changes():
    flowers = (FLOWER_TEMPLATES / NAVIGATION).read_text()

    ours = with_links(flowers)

    assert ours.replace(LINKS, "").replace(NARROW_STATUS, "") == flowers
    assert ours.index(NARROW_STATUS) < ours.index("navbar-toggler")
    assert ours.index("reverse_url('broker')") < ours.index(LINKS) < ours.index("</ul>")


def test_an_unknown_navigation_of_flower_is_left_as_it_is_with_a_warning(caplog):
    with caplog.at_level(logging.WARNING):
        assert with_links("<nav>new</nav>") == "<nav>new</nav>"

    assert "/alerts and /streams" in caplog.text


def test_the_page_of_a_worker_says_where_the_other_queues_are_and_nothing_else_changes():
    flowers = (FLOWER_TEMPLATES / WORKER).read_text()

    ours = with_note(flowers)

    assert CAPTION_WITH_NOTE in ours
    assert ours.replace(CAPTION_WITH_NOTE, CAPTION) == flowers


def test_our_templates_replace_none_of_flower_s():
    ours, flowers = ({path.name for path in found.glob("*.html")} for found in (TEMPLATES, FLOWER_TEMPLATES))

    assert not ours & flowers
    assert (ours | flowers) == loader().dict.keys()


def test_every_template_compiles_and_escapes():
    for name in loader().dict:
        assert loader().load(name).autoescape == "xhtml_escape"
