"""A pool whose processes receive each job whole, also when the worker is stopped.

Celery writes a job as far as a process's pipe takes it, and goes on as the process reads. A run over
RabbitMQ holds its messages, and is larger than a pipe. If the worker is stopped in between, Celery sends what
tells the process to end all the same: the process takes it for a part of the job, and neither ends nor
answers.
"""

from inspect import GEN_SUSPENDED, getgeneratorstate

from celery.concurrency.asynpool import AsynPool, _get_job_writer


class Pool(AsynPool):  # type: ignore[misc]
    """Celery's pool of processes, which closes between two jobs."""

    def close(self) -> None:
        """Write the jobs to their end that are written in part, then close. An idle process reads its job."""
        for job in tuple(self._cache.values()):
            writer = _get_job_writer(job)
            if writer and writer in self._active_writers and getgeneratorstate(writer) == GEN_SUSPENDED:
                self._flush_writer(job._write_to, writer)
        super().close()
