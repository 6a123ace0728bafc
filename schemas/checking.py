"""Checks a list item by item, so that an invalid item does not stop its neighbours."""

from collections.abc import Iterator
from typing import Any, NamedTuple

from marshmallow import Schema, ValidationError


class Checked(NamedTuple):
    """The result of a check."""

    valid: list[tuple[int, dict[str, Any]]]
    """Each valid item, loaded, with its position."""
    problems: dict[int, list[str]]
    """Per position of an invalid item, what is wrong: fields and rules, never values."""


def check(schema: Schema, items: list[Any]) -> Checked:
    """Load each of `items` with `schema`."""
    try:
        return Checked(list(enumerate(schema.load(items, many=True))), {})
    except ValidationError as error:
        messages = _messages(error)
        loaded: list[dict[str, Any]] = error.valid_data  # type: ignore[assignment]
        valid = [(i, item) for i, item in enumerate(loaded) if i not in messages]
        return Checked(valid, {i: sorted(_sentences(schema, found)) for i, found in messages.items()})


def sentences(schema: Schema, error: ValidationError) -> list[str]:
    """Describe the problems of a single item, without its values."""
    return sorted(_sentences(schema, _messages(error)))


def _messages(error: ValidationError) -> dict[Any, Any]:
    found: dict[Any, Any] = error.normalized_messages()  # type: ignore[no-untyped-call]
    return found


def _sentences(schema: Schema, messages: dict[str, Any]) -> Iterator[str]:
    """`field: problem`. A key that is not a field is the sender's, and may hold an identity value."""
    for field, problems in messages.items():
        if field == "_schema":
            yield from _flat(problems)
        elif field in schema.fields:
            yield from (f"{field}: {problem}" for problem in _flat(problems))
        else:
            yield "unknown key"


def _flat(problems: Any) -> Iterator[str]:
    """The messages of a field; those of a list's entries come one level deeper."""
    if isinstance(problems, dict):
        for nested in problems.values():
            yield from _flat(nested)
    else:
        yield from (_in_a_sentence(str(problem)) for problem in problems)


def _in_a_sentence(problem: str) -> str:
    """As it reads behind a colon. Only marshmallow's own begin with a capital and end with a full stop."""
    return problem[:1].lower() + problem[1:].rstrip(".")
