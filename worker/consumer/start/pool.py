"""A pool between whose processes and the worker each job and each result arrives whole.

Celery writes a job as far as a process's pipe takes it, and goes on as the process reads. A run over
RabbitMQ holds its messages, and is larger than a pipe. If the worker is stopped in between, Celery sends what
tells the process to end all the same: the process takes it for a part of the job, and neither ends nor
answers.

It also reads a result as far as it is there. When the connection to the broker is lost the event loop
forgets who reads and who writes in part. The rest of the result would be taken for another, which ends the
worker, and the process would wait for the rest of its job for ever.
"""

import logging
from collections.abc import Callable, Generator
from inspect import GEN_SUSPENDED, getgeneratorstate
from typing import Any

from celery.concurrency import asynpool
from kombu.asynchronous import Hub

from worker.upstream import limit_last_result_wait, use_process_pool

LAST_RESULT_WAIT_SECONDS = 2
"""For which an ending pool process waits until its last result is read. Supervisors kill sooner than after
billiard's 30 seconds, and once the main process has stopped reading the wait is in vain."""


class ResultHandler(asynpool.ResultHandler):  # type: ignore[misc]
    """Celery's reader of results, which goes on with one that it has read in part."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._readings: dict[int, tuple[Any, Generator[None]]] = {}
        """By file descriptor, the process that it is of, and what has read its last result."""

    def _recv_message(
        self, add_reader: Callable[..., None], fd: int, callback: Callable[..., None], **options: Any
    ) -> Generator[None]:
        process = self.fileno_to_outq[fd]
        owner, reading = self._readings.get(fd, (None, None))
        # Another process may have the descriptor of one that was lost in the middle of a result.
        if reading is None or owner is not process or getgeneratorstate(reading) != GEN_SUSPENDED:
            reading = super()._recv_message(add_reader, fd, callback, **options)
            self._readings[fd] = process, reading
        return reading


class Pool(asynpool.AsynPool):  # type: ignore[misc]
    """Celery's pool of processes, which closes, and enters another event loop, between two jobs."""

    ResultHandler = ResultHandler

    def register_with_event_loop(self, hub: Hub) -> None:
        """Write the jobs to their end that are written in part, then have the event loop serve the pool."""
        self._write_begun_jobs()
        super().register_with_event_loop(hub)

    def close(self) -> None:
        """Write the jobs to their end that are written in part, then close."""
        self._write_begun_jobs()
        super().close()

    def _write_begun_jobs(self) -> None:
        """Write the jobs to their end that are written in part. An idle process reads its job."""
        for job in tuple(self._cache.values()):
            writer = asynpool._get_job_writer(job)
            if writer and writer in self._active_writers and getgeneratorstate(writer) == GEN_SUSPENDED:
                self._flush_writer(job._write_to, writer)


def set_up_pool() -> None:
    """Have this process's worker use the pool, in which an ending process waits for a short time only."""
    use_process_pool(Pool)
    limit_last_result_wait(LAST_RESULT_WAIT_SECONDS)
    # At DEBUG, Celery writes down the messages that it hands to its pool.
    logging.getLogger("celery.pool").setLevel(logging.INFO)
