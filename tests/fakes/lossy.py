"""A client of Redis whose connection ends after a command has run, before its answer arrives."""

from typing import Any

from redis import Redis
from redis.connection import Connection
from redis.exceptions import ConnectionError

from worker.store.connections import connection_options


class Losses:
    """Which of the next answers is lost."""

    def __init__(self) -> None:
        self._lost_after: int | None = None
        self.happened = False

    def lose(self, answers: int) -> None:
        """Lose one answer, after so many others have arrived."""
        self._lost_after, self.happened = answers, False

    def is_next(self) -> bool:
        """Count an answer; whether it is the one that is lost."""
        if self._lost_after is None:
            return False
        self._lost_after -= 1
        if self._lost_after >= 0:
            return False
        self._lost_after, self.happened = None, True
        return True


def lossy_client(url: str, losses: Losses) -> Redis:
    """A client that loses answers. Like the project's own, it then sends the command again."""

    class Lossy(Connection):  # type: ignore[misc]
        def read_response(self, *args: Any, **options: Any) -> Any:
            answer = super().read_response(*args, **options)
            if losses.is_next():
                self.disconnect()
                raise ConnectionError("the answer is lost")
            return answer

    client = Redis.from_url(url, decode_responses=True, **connection_options(url))
    client.connection_pool.connection_class = Lossy
    return client
