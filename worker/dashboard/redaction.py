"""Redaction for Flower: the arguments and results of tasks hold identity values.

Our workers keep them to themselves (`worker.consumer.request`). An app that enqueues changes with
`task_send_sent_event` on does not, nor does another worker on the same broker. So they are
hidden where Flower takes in what others tell, before any page, search or API has it.
"""

from typing import Any

from celery.events.state import State
from flower.events import Events
from flower.inspector import Inspector

from worker.privacy import HIDDEN

PAYLOAD = frozenset({"args", "kwargs", "result"})
"""As Celery calls them in events and in answers to `inspect`."""


def redacted(payload: Any) -> Any:
    """The same with every payload in it, at any depth, replaced."""
    if isinstance(payload, dict):
        return {name: HIDDEN if name in PAYLOAD else redacted(value) for name, value in payload.items()}
    if isinstance(payload, list):
        return [redacted(item) for item in payload]
    return payload


class RedactingEvents(Events):  # type: ignore[misc]
    """Flower's memory of tasks, without their payloads."""

    def on_event(self, event: dict[str, Any]) -> None:
        """Called for whatever anybody on the broker tells."""
        super().on_event(redacted(event))

    def load_state(self) -> State | None:
        """With `--persistent`: what was saved, perhaps by a plain Flower that saw everything."""
        state = super().load_state()
        if state is not None:
            for task in state.tasks.values():
                vars(task).update(dict.fromkeys(PAYLOAD, HIDDEN))
            state.search_engine.rebuild(state.tasks.items())
        return state


class RedactingInspector(Inspector):  # type: ignore[misc]
    """Flower's view of workers, without the payloads of what they hold."""

    def _on_update(self, workername: str, method: str, response: Any) -> None:
        # Flower has no public place between a worker's answer and its pages; a test
        # with a talkative worker tells when this one goes.
        super()._on_update(workername, method, redacted(response))
