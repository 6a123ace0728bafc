"""The messages of many changes, which are decoded at once.

msgspec makes changes of the JSON text itself. The digest of such a message is made of its
changes, encoded as most senders encode them: docs/decisions/0028 says which.
"""

import re
from json import JSONDecoder
from typing import Annotated, Any

from msgspec import Meta, convert, json

from schemas.changes import Arguments, Change, as_changes

MANY_CHANGES = 100
"""A message with as many has them decoded and looked at together, at a third of the cost."""
MIN_CHANGE_BYTES = 40
"""Bytes of a valid change at least: it has a type, an audience and its name."""
FIRST_CHANGE_BYTES = 16 * 1024
"""Bytes of a body that are looked at, from its first change on. A longer change is decoded like any other."""
CHANGES_BEGIN = re.compile(rb'\s*\[\s*\[\s*\]\s*,\s*\{\s*"changes"\s*:\s*\[\s*')
"""The body of a call whose only argument is `changes`, up to the first of them."""
BODY = json.Decoder(tuple[Annotated[list[Any], Meta(max_length=0)], Arguments, dict[str, None] | None])
"""Such a body, where no other call follows. Source: "Message Protocol", Celery's documentation."""


def decode_many_changes(body: bytes) -> list[Change] | None:
    """The changes in the body of a call of `audience.forward`, as `as_changes` returns them; None for a few.

    None, too, where the first change has its fields in another order than `Change`, or one without a value:
    `encode_changes` would not return what the sender of such changes has sent.
    """
    start = CHANGES_BEGIN.match(body) if len(body) >= MANY_CHANGES * MIN_CHANGE_BYTES else None
    if start is None:
        return None
    text = body[start.end() : start.end() + FIRST_CHANGE_BYTES].decode(errors="replace")
    try:
        first, _ = JSONDecoder().raw_decode(text)
        changes = BODY.decode(body)[1].changes if _is_encoded_alike(first) else []
        # Where a call has two lists of changes, the second one counts.
        is_first = changes[:1] == [convert(first, Change)]
    except (ValueError, RecursionError):
        return None
    return changes if len(changes) >= MANY_CHANGES and is_first else None


def encode_changes(changes: list[Change]) -> bytes:
    """The arguments of `audience.forward` as JSON. Fields with their default are left out.

    Raises `UnicodeEncodeError` for half a surrogate pair, which `decode_many_changes` never returns.
    """
    return json.encode(Arguments(changes))


def encode_many_changes(arguments: Any) -> bytes | None:
    """The arguments as `encode_changes` writes what `decode_many_changes` finds in them, or None."""
    items = arguments.get("changes") if type(arguments) is dict else None
    if type(items) is not list or len(items) < MANY_CHANGES or not _is_encoded_alike(items[0]):
        return None
    changes = as_changes(arguments)
    try:
        return None if changes is None else encode_changes(changes)
    except UnicodeEncodeError:
        return None


def _is_encoded_alike(item: Any) -> bool:
    """Whether an item has its fields in the order of those of `Change`, each with a value."""
    if type(item) is not dict or not all(item.values()):
        return False
    return list(item) == [name for name in Change.__struct_fields__ if name in item]
