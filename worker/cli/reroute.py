"""reroute."""

import click

from worker.broker.rerouting import reroute as move
from worker.cli.application import application
from worker.cli.output import count, note
from worker.queues import CHANGES_QUEUE, DEFAULT_QUEUE, FORWARD, FORWARD_MPARTICLE


@click.command()
def reroute() -> None:
    """Move changes out of Celery's default queue, where a sender put them who forgot `queue=`.

    Calls of other applications, which may share that queue, are left there.
    """
    done = move(application(), {FORWARD, FORWARD_MPARTICLE})
    click.echo(f"moved {count(done.moved, 'message')} from {DEFAULT_QUEUE} to {CHANGES_QUEUE}")
    if done.left:
        note(f"{count(done.left, 'message')} of other applications left in {DEFAULT_QUEUE}")
