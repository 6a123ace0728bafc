"""The Dead Letters page as data: a choice of letters and a page of them."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from urllib.parse import urlencode

from worker.failures.alert_types import AlertType
from worker.failures.dead_letters import DeadLetter, Query

ROWS_PER_PAGE = 100


@dataclass(frozen=True)
class LetterQuery:
    """The choice of a URL. Empty values choose everything."""

    type: str = ""
    connection: str = ""
    stream: str = ""
    since: str = ""
    """UTC, ISO 8601."""
    until: str = ""
    page: str = "1"

    def link(self, **changes: str) -> str:
        """A relative link to this query, changed. Parameters at their defaults are left out."""
        changed = asdict(replace(self, **changes))
        return "?" + urlencode({name: value for name, value in changed.items() if value != DEFAULTS[name]})

    @property
    def choice(self) -> Query:
        """The same for the store."""
        return Query(
            type=self.type or None,
            connection_id=self.connection or None,
            stream=self.stream or None,
            since=self.since or None,
            until=self.until or None,
        )

    @property
    def is_narrow(self) -> bool:
        """Whether it chooses less than all."""
        return any((self.type, self.connection, self.stream, self.since, self.until))


DEFAULTS = asdict(LetterQuery())


@dataclass(frozen=True)
class LettersPage:
    """A page of dead letters, oldest first."""

    query: LetterQuery
    letters: Sequence[DeadLetter]
    first: int
    """The position of the first letter among the matching ones, from 1."""
    matching: int
    matching_records: int
    total: int

    @property
    def last(self) -> int:
        """The position of the last letter."""
        return self.first + len(self.letters) - 1

    @property
    def previous_link(self) -> str | None:
        """A link to the page before this one."""
        page = self.first // ROWS_PER_PAGE
        return self.query.link(page=str(page)) if page else None

    @property
    def next_link(self) -> str | None:
        """A link to the page after this one."""
        page = self.first // ROWS_PER_PAGE + 2
        return self.query.link(page=str(page)) if self.last < self.matching else None


def read_query(arguments: Mapping[str, str]) -> LetterQuery:
    """The query of a URL. Raises `ValueError`, naming the parameter and its possible values."""
    query = LetterQuery(**{name: arguments.get(name) or default for name, default in DEFAULTS.items()})
    if query.type not in ["", *AlertType]:
        raise ValueError(f"type: must be one of {', '.join(AlertType)}")
    if not (query.page.isascii() and query.page.isdecimal() and int(query.page[:7]) > 0):
        raise ValueError("page: must be a number from 1")
    return query


def letters_page(letters: Sequence[DeadLetter], query: LetterQuery) -> LettersPage:
    """The page that is asked for, or the last one where there are fewer."""
    choice = query.choice
    matching = [letter for letter in letters if choice.asks_for(letter)]
    pages = max(len(matching) - 1, 0) // ROWS_PER_PAGE
    start = ROWS_PER_PAGE * min(int(query.page[:7]) - 1, pages)
    return LettersPage(
        query=query,
        letters=matching[start : start + ROWS_PER_PAGE],
        first=start + 1,
        matching=len(matching),
        matching_records=sum(letter.records for letter in matching),
        total=len(letters),
    )
