"""Checks of the arguments of commands that act on one thing or on many."""

import click


def one_or_all(identifier: str | None, everything: bool, *, narrowing: bool = False) -> None:
    """Raise `UsageError` unless there is either an ID or --all.

    `narrowing` says whether an option is given that narrows --all.
    """
    if narrowing and not everything:
        raise click.UsageError("the options that narrow --all need it; give both")
    if bool(identifier) == everything:
        raise click.UsageError("give either an ID or --all")
