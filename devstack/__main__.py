"""The local stack: `make demo` and `make up`, and two commands for whoever works beside the latter.

python -m devstack demo                    everything once, checked
python -m devstack up                      the same stack until Ctrl-C
python -m devstack create-stream NAME      a new delivery stream of the local Firehose
python -m devstack records NAME            the records that arrived in a stream
"""

import argparse
import os
import shlex
import sys
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

from botocore.exceptions import BotoCoreError, ClientError

from devstack.aws import LocalAws
from devstack.caller import readme_caller
from devstack.demo import demo, forward, register
from devstack.examples import TRAVEL
from devstack.interruption import Interruption, Interruptions
from devstack.people import Operator
from devstack.processes import BIN, LOOPBACK, StartError, private_environment
from devstack.stack import Ports, Stack, running
from devstack.story import Mismatch, show, step, tell

WATCH_INTERVAL_SECONDS = 0.5
LOG_LINES = 20
SIGNALLED = 128
"""A shell adds this to a signal's number to make an exit status."""
DEFAULT_PORTS = Ports(redis=6379, firehose=5000, dashboard=5555)
"""The ports of `up` where they are free: the documented defaults then lead to the local stack."""


def up(stack: Stack) -> None:
    """Register the demo's streams, forward its changes, and stay up until interrupted."""
    register(stack, Operator(stack.env))
    forward(stack)
    step("Everything is up. Ctrl-C stops it.")
    show_addresses(stack)
    tell("\n   For `audience-firehose` and `celery -A worker` in another shell:\n")
    show(f"export PATH={shlex.quote(str(BIN))}:$PATH")
    show("\n".join(f"export {name}={value}" for name, value in stack.env.items()))
    tell("\n   To enqueue a change from another app:\n")
    show(readme_caller(stack.env["CELERY_BROKER_URL"]))
    tell("\n   To see the record that arrives, and to make a further stream:\n")
    show(f"python -m devstack records {TRAVEL.name}\npython -m devstack create-stream another-stream")
    while all(process.is_running for process in stack.processes):
        time.sleep(WATCH_INTERVAL_SECONDS)
    ended = ", ".join(process.name for process in stack.processes if not process.is_running)
    raise Mismatch(f"ended by itself: {ended}")


STORIES: dict[str, tuple[Callable[[Stack], None], Ports]] = {
    "demo": (demo, Ports()),
    "up": (up, DEFAULT_PORTS),
}


def main() -> int:
    """Run the command that the arguments name. Returns the exit code."""
    arguments = _arguments()
    if arguments.command in STORIES:
        return run_story(arguments.command)
    try:
        with_local_aws(arguments, LocalAws(arguments.url))
    except (BotoCoreError, ClientError) as error:
        print(f"{arguments.command}: {error}; is `make up` running?", file=sys.stderr)
        return 1
    return 0


def with_local_aws(arguments: argparse.Namespace, aws: LocalAws) -> None:
    """Create a stream, or print a stream's records. Raises the errors of boto3."""
    if arguments.command == "create-stream":
        aws.create_stream(arguments.name, arguments.region)
        return
    for put in aws.delivered(arguments.name):
        for record in put:
            print(record.rstrip("\n"))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m devstack", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for story in STORIES:
        commands.add_parser(story)
    url = os.environ.get("AWS_ENDPOINT_URL_FIREHOSE", f"http://{LOOPBACK}:{DEFAULT_PORTS.firehose}")
    for name in ("create-stream", "records"):
        command = commands.add_parser(name)
        command.add_argument("name")
        command.add_argument("--url", default=url, help="of the local Firehose [default: %(default)s]")
    commands.choices["create-stream"].add_argument("--region", default="us-east-1")
    return parser.parse_args()


def run_story(story: str) -> int:
    """Start everything, run the story, stop everything. Returns the exit code."""
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
    """Remove the shell's settings, so that nothing started here reaches another installation."""
    private = private_environment({})
    os.environ.clear()
    os.environ.update(private)


def tell_story(story: str, directory: Path, interruptions: Interruptions) -> None:
    """Run a story beside the running stack."""
    began = time.monotonic()
    step("Starting a private Redis, a local Firehose with S3 behind it, two workers and the dashboard.")
    run, ports = STORIES[story]
    with running(directory, interruptions, ports) as stack:
        show_addresses(stack)
        try:
            run(stack)
        except Mismatch:
            show_logs(stack)
            raise
        step("Stopping everything.")
    tell(f"\nAll as promised, in {time.monotonic() - began:.0f} seconds.")


def show_addresses(stack: Stack) -> None:
    """Print the address of each server."""
    show(f"Redis           {stack.env['CELERY_BROKER_URL']}")
    show(f"local Firehose  {stack.aws.url}")
    show(f"dashboard       {stack.dashboard_url}")


def show_logs(stack: Stack) -> None:
    """Print the last lines of each log."""
    for process in stack.processes:
        tell(f"\nThe end of {process.log.name}:")
        show("\n".join(process.output().splitlines()[-LOG_LINES:]))


if __name__ == "__main__":
    sys.exit(main())
