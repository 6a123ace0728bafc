"""Entries of the audit list for what an operator does at the command line."""

import getpass
import os
import socket

from redis.exceptions import RedisError

from worker.cli.output import note
from worker.state.audit import Action, Audit


def actor() -> str:
    """The account and the machine that run the command."""
    try:
        account = getpass.getuser()
    except (KeyError, OSError):
        # A container may run under a user id that has no name.
        account = str(os.getuid())
    return f"{account}@{socket.gethostname()}"


def record_action(audit: Audit, action: Action, subject: str, detail: str = "") -> None:
    """Add what has just been done to the audit list.

    A full Redis refuses the entry. The action is done all the same, so this is a note and no error.
    """
    try:
        audit.record(actor(), action, subject, detail)
    except RedisError as error:
        note(f"done, but not written to the audit list ({type(error).__name__})")
