"""Lists that come in pages: the choice of a URL, one page of what it chooses, and links to others."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Generic, Self, TypeVar
from urllib.parse import urlencode

MAX_DIGITS = 7
"""Digits that a page's number has at most."""
T = TypeVar("T")
U = TypeVar("U")


@dataclass(frozen=True)
class PageQuery:
    """The choice of a URL: a field for each parameter. Empty values choose everything."""

    page: str = "1"

    @classmethod
    def read(cls, arguments: Mapping[str, str]) -> Self:
        """The query of a URL's parameters. Raises `ValueError` where the page is no number."""
        query = cls(**{name: arguments.get(name) or value for name, value in asdict(cls()).items()})
        page = query.page
        if not (page.isascii() and page.isdecimal() and int(page[:MAX_DIGITS]) and len(page) <= MAX_DIGITS):
            raise ValueError("page: must be a number from 1")
        return query

    def link(self, **changes: str) -> str:
        """A relative link to this query, changed. Parameters at their defaults are left out."""
        changed, defaults = asdict(replace(self, **changes)), asdict(type(self)())
        return "?" + urlencode({name: value for name, value in changed.items() if value != defaults[name]})


@dataclass(frozen=True)
class Part(Generic[T]):
    """A page of a list, or the last page if there are fewer."""

    items: Sequence[T]
    number: int
    """The page's, from 1."""
    per_page: int
    total: int
    """Items of the whole list."""

    @property
    def first(self) -> int:
        """The position of the first item in the whole list, from 1."""
        return (self.number - 1) * self.per_page + 1

    @property
    def last(self) -> int:
        """The position of the last item."""
        return self.first + len(self.items) - 1

    @property
    def previous_page(self) -> str | None:
        """The number of the page before this one."""
        return str(self.number - 1) if self.number > 1 else None

    @property
    def next_page(self) -> str | None:
        """The number of the page after this one."""
        return str(self.number + 1) if self.last < self.total else None

    def of(self, items: "Sequence[U]") -> "Part[U]":
        """The same page, of what was made of each of its items."""
        return Part(items, self.number, self.per_page, self.total)


def part_of(items: Sequence[T], query: PageQuery, per_page: int) -> Part[T]:
    """The page of a list that a query asks for."""
    pages = max(len(items) - 1, 0) // per_page + 1
    number = min(int(query.page), pages)
    start = (number - 1) * per_page
    return Part(items[start : start + per_page], number, per_page, len(items))
