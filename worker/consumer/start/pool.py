"""A pool whose processes receive each job whole, also when the worker is stopped.

Celery writes a job as far as a process's pipe takes it, and goes on as the process reads. A run over
RabbitMQ holds its messages, and is larger than a pipe. If the worker is stopped in between, Celery sends what
tells the process to end all the same: the process takes it for a part of the job, and neither ends nor
answers.
"""

import logging
from inspect import GEN_SUSPENDED, getgeneratorstate

from celery.concurrency.asynpool import AsynPool, _get_job_writer

from worker.upstream import limit_last_result_wait, use_process_pool

LAST_RESULT_WAIT_SECONDS = 2
"""For which an ending pool process waits until its last result is read. Supervisors kill sooner than after
billiard's 30 seconds, and once the main process has stopped reading the wait is in vain."""


class Pool(AsynPool):  # type: ignore[misc]
    """Celery's pool of processes, which closes between two jobs."""

    def close(self) -> None:
        """Write the jobs to their end that are written in part, then close. An idle process reads its job."""
        for job in tuple(self._cache.values()):
            writer = _get_job_writer(job)
            if writer and writer in self._active_writers and getgeneratorstate(writer) == GEN_SUSPENDED:
                self._flush_writer(job._write_to, writer)
        super().close()


def set_up_pool() -> None:
    """Have this process's worker use the pool, in which an ending process waits for a short time only."""
    use_process_pool(Pool)
    limit_last_result_wait(LAST_RESULT_WAIT_SECONDS)
    # At DEBUG, Celery writes down the messages that it hands to its pool.
    logging.getLogger("celery.pool").setLevel(logging.INFO)
