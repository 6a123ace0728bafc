"""The documents, and what their code spans and fenced blocks say."""

import re

from devstack.processes import ROOT

DOCS = sorted({*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")} - {ROOT / "CHANGELOG.md"})


def name(path):
    return str(path.relative_to(ROOT))


def text(path):
    return path.read_text("utf-8")


def code_spans(markdown):
    """The texts in single backticks, outside fenced blocks."""
    return re.findall(r"`([^`\n]+)`", re.sub(r"^```.*?^```", "", markdown, flags=re.MULTILINE | re.DOTALL))


def fenced_lines(markdown):
    """The lines of fenced blocks, those that end in a backslash joined with the next."""
    blocks = re.findall(r"^```[a-z]*\n(.*?)^```", markdown, re.MULTILINE | re.DOTALL)
    return [line.strip() for block in blocks for line in block.replace("\\\n", " ").splitlines()]
