"""The Dead Letters page, the page of one letter, their export, and what an operator does with them."""

import json
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from typing import Any, NamedTuple

from tornado import web

from worker.broker.client import sender
from worker.dashboard.dead_letters import LettersPage, letters_page, read_query
from worker.dashboard.jobs import Job
from worker.dashboard.labels import amount
from worker.dashboard.page import Page
from worker.errors import NotRegistered, OperatorError
from worker.failures.dead_letters import DeadLetter, Query
from worker.state.audit import Action

EXPORT_CHUNK = 100
"""Letters that are read and sent at a time."""


class LetterDetails(NamedTuple):
    """A dead letter with its content."""

    letter: DeadLetter
    content: str
    """Its message as JSON, identity values included; empty unless an operator asked for it."""


class DeadLettersPage(Page):
    """The letters, and buttons for all that a filter chooses."""

    template = "dead_letters.html"

    def reader(self, *path: str) -> Callable[[], LettersPage]:
        return partial(self._read, self.parse_query(read_query))

    @web.authenticated
    async def post(self) -> None:
        """Replay or discard every letter that the filter chooses, and lead to the job's progress."""
        query = self.parse_query(read_query)
        actions = {Action.REPLAY: self._replay, Action.DISCARD: self._discard}
        name = self.get_body_argument("action", "")
        if name not in actions:
            raise web.HTTPError(400, f"action: must be one of {', '.join(actions)}")
        letters = await self.act(partial(self.services.dead_letters.find, query.choice))
        await self.act(partial(self._record, Action(name), query.choice, len(letters)))
        job = self.application.jobs.start(
            f"{name.capitalize()} {amount(len(letters), 'dead letter')}",
            len(letters),
            partial(actions[name], letters),
        )
        self.redirect(self.reverse_url("job", job))

    def _read(self, query: Any) -> LettersPage:
        return letters_page(self.services.dead_letters.all(), query)

    def _record(self, action: Action, choice: Query, letters: int) -> None:
        chosen = ", ".join(f"{name} {value}" for name, value in asdict(choice).items() if value) or "all"
        self.services.audit.record(self.actor, action, f"dead letters: {chosen}", f"{letters} letters")

    def _replay(self, letters: list[DeadLetter], job: Job) -> None:
        def count(letter: DeadLetter, problem: OperatorError | None) -> None:
            if problem is None:
                replayed.append(letter.id)
                job.done += 1
            else:
                job.left += 1
                job.problem = str(problem)

        replayed: list[str] = []
        try:
            with sender(self.capp) as broker:
                self.services.replayer.replay_many(broker, letters, count)
        finally:
            self.services.alerts.resolve(replayed)

    def _discard(self, letters: list[DeadLetter], job: Job) -> None:
        def count(number: int) -> None:
            job.done += number

        self.services.dead_lettering.discard_many(letters, count)


class DeadLetterPage(Page):
    """A page of a dead letter. Its content holds identity values: shown on request, which is audited."""

    template = "dead_letter.html"

    def reader(self, *path: str) -> Callable[[], LetterDetails]:
        return partial(self._read, path[0])

    @web.authenticated
    async def post(self, identifier: str) -> None:
        """Show the content, replay the letter or discard it."""
        actions = {"show": self._show, "replay": self._replay, "discard": self._discard}
        action = actions.get(self.get_body_argument("action", ""))
        if action is None:
            raise web.HTTPError(400, f"action: must be one of {', '.join(actions)}")
        details = await self.act(partial(self._read, identifier))
        try:
            shown = await self.act(partial(action, details))
        except OperatorError as error:
            raise web.HTTPError(409, str(error)) from None
        if shown is None:
            self.redirect(self.reverse_url("dead-letters"))
        else:
            self.render(self.template, shown=shown)

    def _read(self, identifier: str) -> LetterDetails:
        try:
            return LetterDetails(self.services.dead_letters.get(identifier), "")
        except NotRegistered:
            raise web.HTTPError(404, "There is no such dead letter (any more).") from None

    def _show(self, details: LetterDetails) -> LetterDetails:
        message = self.services.dead_letters.message(details.letter)
        self.services.audit.record(self.actor, Action.SHOW, details.letter.id)
        return details._replace(content=json.dumps(vars(message), indent=2, ensure_ascii=False))

    def _replay(self, details: LetterDetails) -> None:
        with sender(self.capp) as broker:
            self.services.replayer.replay(broker, details.letter)
        self.services.alerts.resolve([details.letter.id])
        self.services.audit.record(self.actor, Action.REPLAY, details.letter.id)

    def _discard(self, details: LetterDetails) -> None:
        self.services.dead_lettering.discard(details.letter)
        self.services.audit.record(self.actor, Action.DISCARD, details.letter.id)


class DeadLettersExport(DeadLettersPage):
    """The chosen letters as JSON lines, identity values included. Each export is recorded."""

    async def get(self, *path: str) -> None:
        """Refuse: a link must not be enough."""
        raise web.HTTPError(405)

    @web.authenticated
    async def post(self) -> None:
        """Send one JSON object a line."""
        query = self.parse_query(read_query)
        letters = await self.act(partial(self.services.dead_letters.find, query.choice))
        await self.act(partial(self._record, Action.EXPORT, query.choice, len(letters)))
        self.set_header("Content-Type", "application/x-ndjson")
        self.set_header("Content-Disposition", 'attachment; filename="dead-letters.jsonl"')
        for start in range(0, len(letters), EXPORT_CHUNK):
            self.write(await self.act(partial(self._lines, letters[start : start + EXPORT_CHUNK])))
            await self.flush()

    def _lines(self, letters: list[DeadLetter]) -> str:
        lines = []
        for letter in letters:
            try:
                message = self.services.dead_letters.message(letter)
            except OperatorError:
                # Somebody has just replayed or discarded it.
                continue
            lines.append(json.dumps({**asdict(letter), "content": vars(message)}) + "\n")
        return "".join(lines)


class JobPage(Page):
    """How far a job is."""

    template = "job.html"

    def reader(self, *path: str) -> Callable[[], Job]:
        return partial(self._job, path[0])

    def _job(self, identifier: str) -> Job:
        job: Job | None = self.application.jobs.get(identifier)
        if job is None:
            raise web.HTTPError(404, "There is no such job (any more).")
        return job
