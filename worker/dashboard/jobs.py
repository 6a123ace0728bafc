"""Long work that an operator starts from a page: it runs in a thread, and the page shows how far it is."""

import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from uuid import uuid4

KEPT = 100
"""Jobs whose outcome can still be seen."""


@dataclass
class Job:
    """A piece of long work."""

    title: str
    total: int
    done: int = 0
    left: int = 0
    """Items that could not be done."""
    problem: str = ""
    """Why it ended early, or why something was left."""
    is_running: bool = True

    @property
    def percent(self) -> int:
        """The part that is over."""
        return 100 * (self.done + self.left) // self.total if self.total else 100


class Jobs:
    """The jobs of this process, by ID."""

    def __init__(self) -> None:
        self._jobs: OrderedDict[str, Job] = OrderedDict()
        self._lock = threading.Lock()

    def start(self, title: str, total: int, work: Callable[[Job], object]) -> str:
        """Run `work` in a thread of its own and return the job's ID. `work` counts in the job it is given."""
        identifier = uuid4().hex[:12]
        job = Job(title, total)
        with self._lock:
            self._jobs[identifier] = job
            while len(self._jobs) > KEPT:
                self._jobs.popitem(last=False)
        threading.Thread(target=_run, args=(job, work), name=f"job-{identifier}", daemon=True).start()
        return identifier

    def get(self, identifier: str) -> Job | None:
        """A job; None where it is unknown, or was forgotten for newer ones."""
        return self._jobs.get(identifier)


def _run(job: Job, work: Callable[[Job], object]) -> None:
    try:
        work(job)
    except Exception as error:
        # Whatever it is, the page says that the job ended; the error's text may hold what must not be shown.
        job.problem = f"it ended early: {type(error).__name__}"
    finally:
        job.is_running = False
