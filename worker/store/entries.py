"""Entries of Redis, read back as dataclasses; another program may have made them corrupt."""

import json
import logging
from collections.abc import Hashable, Iterable, Iterator
from functools import cache
from types import UnionType
from typing import Any, TypeVar, cast, get_args, get_origin, get_type_hints

T = TypeVar("T")

CORRUPT_ERRORS = (ValueError, TypeError, RecursionError)
"""The errors of reading a corrupt entry."""

logger = logging.getLogger(__name__)


def entry(kind: type[T], text: str) -> T | None:
    """Read an entry from JSON text; None where the text is corrupt."""
    try:
        stored = json.loads(text)
        found = kind(**stored)
    except CORRUPT_ERRORS:
        return None
    types = _types(cast(Hashable, kind))
    return found if all(isinstance(value, types[name]) for name, value in stored.items()) else None


def entries(kind: type[T], texts: Iterable[str]) -> Iterator[T]:
    """Yield the entries that can be read, and log the number of corrupt ones."""
    corrupt = 0
    for text in texts:
        found = entry(kind, text)
        if found is None:
            corrupt += 1
        else:
            yield found
    if corrupt:
        logger.error("%d of the entries in Redis cannot be read as %s", corrupt, kind.__name__)


def entries_by_text(kind: type[T], texts: Iterable[str]) -> dict[str, T]:
    """Return the entries that can be read, by their text, and log the number of corrupt ones."""
    asked = list(texts)
    read = {text: found for text in asked if (found := entry(kind, text)) is not None}
    if corrupt := sum(text not in read for text in asked):
        logger.error("%d of the entries in Redis cannot be read as %s", corrupt, kind.__name__)
    return read


def number(text: str | None) -> int:
    """Read a counter; a corrupt one counts from zero."""
    try:
        return int(text or 0)
    except ValueError:
        return 0


@cache
def _types(kind: Any) -> dict[str, tuple[type, ...]]:
    """By field, the types of its values; of a list, not of what is in it."""
    return {name: tuple(_plain(hint)) for name, hint in get_type_hints(kind).items()}


def _plain(hint: Any) -> Iterator[type]:
    if isinstance(hint, UnionType):
        for part in get_args(hint):
            yield from _plain(part)
    else:
        yield get_origin(hint) or hint
