"""The Dead Letters page as data: a choice of letters and a page of them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from worker.dashboard.paging import PageQuery, Part, part_of
from worker.failures.alert_types import AlertType
from worker.failures.dead_letters import DeadLetter, Query

ROWS_PER_PAGE = 100


@dataclass(frozen=True)
class LetterQuery(PageQuery):
    """The choice of a URL. Empty values choose everything."""

    type: str = ""
    connection: str = ""
    stream: str = ""
    since: str = ""
    """UTC, ISO 8601."""
    until: str = ""

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


@dataclass(frozen=True)
class LettersPage:
    """A page of dead letters, oldest first."""

    query: LetterQuery
    letters: Part[DeadLetter]
    matching_records: int
    total: int


def read_query(arguments: Mapping[str, str]) -> LetterQuery:
    """The query of a URL. Raises `ValueError`, naming the parameter and its possible values."""
    query = LetterQuery.read(arguments)
    if query.type not in ["", *AlertType]:
        raise ValueError(f"type: must be one of {', '.join(AlertType)}")
    return query


def letters_page(letters: Sequence[DeadLetter], query: LetterQuery) -> LettersPage:
    """The page that is asked for, or the last one where there are fewer."""
    choice = query.choice
    matching = [letter for letter in letters if choice.asks_for(letter)]
    return LettersPage(
        query=query,
        letters=part_of(matching, query, ROWS_PER_PAGE),
        matching_records=sum(letter.records for letter in matching),
        total=len(letters),
    )
