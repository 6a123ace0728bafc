"""reroute."""

import click

from worker.broker.rerouting import reroute as move
from worker.cli.application import application
from worker.cli.output import count, json_option, note, result
from worker.queues import CHANGES_QUEUE, DEFAULT_QUEUE, FORWARD, FORWARD_MPARTICLE


@click.command()
@json_option
def reroute(as_json: bool) -> None:
    """Move changes out of Celery's default queue, where they land if a sender forgets `queue=`.

    Calls of other applications, which may share that queue, are left there.
    """
    done = move(application(), {FORWARD, FORWARD_MPARTICLE})
    result(
        f"moved {count(done.moved, 'message')} from {DEFAULT_QUEUE} to {CHANGES_QUEUE}",
        as_json=as_json,
        moved=done.moved,
        left=done.left,
    )
    if done.left:
        note(f"{count(done.left, 'message')} of other applications left in {DEFAULT_QUEUE}")
