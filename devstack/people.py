"""The people of the demo: the operator at a shell, and somebody who runs another app."""

import json
import shlex
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from devstack.processes import BIN, ROOT, private_environment
from devstack.story import Mismatch, show

COMMAND = "audience-firehose"
OTHER_APP = Path(__file__).with_name("other_app.py")
TIMEOUT_SECONDS = 60
"""Seconds."""


class Operator:
    """Runs `audience-firehose`, and shows each call with its output."""

    def __init__(self, env: Mapping[str, str]) -> None:
        self._env = env

    def run(self, *arguments: str, stdin: str = "") -> None:
        """Run a command and show it as an operator types it."""
        show(f"$ {shlex.join([COMMAND, *arguments])}{' < secret' if stdin else ''}")
        show(self._answer(arguments, stdin))

    def list(self, listing: str) -> list[dict[str, Any]]:
        """Return the rows of a listing, without showing them."""
        return [json.loads(line) for line in self._answer([listing, "--json"]).splitlines()]

    def _answer(self, arguments: Sequence[str], stdin: str = "") -> str:
        return _run([BIN / COMMAND, *arguments], self._env, stdin)


def enqueue(broker_url: str, messages: Sequence[Any]) -> None:
    """Enqueue messages from another app, which knows nothing but the broker."""
    lines = "\n".join(json.dumps(message) for message in messages)
    show(f"$ python {OTHER_APP.relative_to(ROOT)} <<END\n{lines}\nEND")
    # `-P`: it cannot import what lies beside it either.
    _run([sys.executable, "-P", OTHER_APP], {"CELERY_BROKER_URL": broker_url}, lines)


def _run(command: Sequence[str | Path], env: Mapping[str, str], stdin: str) -> str:
    done = subprocess.run(
        command,
        input=stdin,
        capture_output=True,
        text=True,
        env=private_environment(env),
        timeout=TIMEOUT_SECONDS,
        check=False,
    )
    if done.returncode:
        raise Mismatch(f"{shlex.join(map(str, command))} ended with {done.returncode}:\n{done.stderr}")
    return done.stdout
