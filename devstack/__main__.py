"""`python -m devstack demo` and `python -m devstack up`: what `make demo` and `make up` run."""

import argparse
import os
import shlex
import sys
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

from devstack.demo import demo, forward, register
from devstack.interruption import Interruption, Interruptions
from devstack.people import Operator
from devstack.processes import BIN, StartError, private_environment
from devstack.stack import Stack, running
from devstack.story import Mismatch, show, step, tell

LOOK_EVERY = 0.5
"""Seconds."""
LOG_LINES = 20
SIGNALLED = 128
"""What a shell adds to a signal's number to make an exit status."""


def up(stack: Stack) -> None:
    """The demo's streams and changes, and then everything for as long as somebody wants it."""
    register(stack, Operator(stack.env))
    forward(stack)
    step("Everything is up. Ctrl-C stops it.")
    show_addresses(stack)
    tell("\n   For `audience-firehose` and `celery -A worker` in another shell:\n")
    show(f"export PATH={shlex.quote(str(BIN))}:$PATH")
    show("\n".join(f"export {name}={value}" for name, value in stack.env.items()))
    while all(process.is_running for process in stack.processes):
        time.sleep(LOOK_EVERY)
    ended = ", ".join(process.name for process in stack.processes if not process.is_running)
    raise Mismatch(f"ended by itself: {ended}")


STORIES: dict[str, Callable[[Stack], None]] = {"demo": demo, "up": up}


def main() -> int:
    """Start everything, tell the story, stop everything. Returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m devstack", description=__doc__)
    parser.add_argument("story", choices=STORIES)
    story = parser.parse_args().story
    forget_settings()
    with Interruptions() as interruptions:
        try:
            with TemporaryDirectory(prefix="audience-firehose-") as directory:
                tell_story(story, Path(directory), interruptions)
        except Interruption:
            tell("\nStopped everything.")
            return 0 if story == "up" else SIGNALLED + (interruptions.signal or 0)
        except (StartError, Mismatch) as error:
            print(f"\n{story}: {error}", file=sys.stderr)
            return 1
    return 0


def forget_settings() -> None:
    """Neither this program nor what it starts may reach whatever the person at the shell works with."""
    private = private_environment({})
    os.environ.clear()
    os.environ.update(private)


def tell_story(story: str, directory: Path, interruptions: Interruptions) -> None:
    """Tell it beside the running stack."""
    began = time.monotonic()
    step("Starting a private Redis, a local Firehose with S3 behind it, two workers and the dashboard.")
    with running(directory, interruptions) as stack:
        show_addresses(stack)
        try:
            STORIES[story](stack)
        except Mismatch:
            show_logs(stack)
            raise
        step("Stopping everything.")
    tell(f"\nAll as promised, in {time.monotonic() - began:.0f} seconds.")


def show_addresses(stack: Stack) -> None:
    """Where everything listens."""
    show(f"Redis           {stack.env['CELERY_BROKER_URL']}")
    show(f"local Firehose  {stack.aws.url}")
    show(f"dashboard       {stack.dashboard_url}")


def show_logs(stack: Stack) -> None:
    """The ends of what the parts have written, for whoever looks for the reason."""
    for process in stack.processes:
        tell(f"\nThe end of {process.log.name}:")
        show("\n".join(process.output().splitlines()[-LOG_LINES:]))


if __name__ == "__main__":
    sys.exit(main())
