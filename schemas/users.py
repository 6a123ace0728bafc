"""Which user a change tells of, so that the records of one user can be kept in order.

A user is identified by the MPID, else by the Customer ID, else by the first identity in the catalogue's
order; by an empty value only where there is no other. An identity change tells of the user before
and of the user after it, who are one from then on: in a whole message, also before the change.
"""

from collections.abc import Iterable, Sequence
from itertools import repeat

from schemas.changes import IDENTITY_CHANGED, Change

User = tuple[int, str, str]
"""An audience's ID, and an identity's name and value: a user of that audience."""


class Users:
    """The users of one message's changes."""

    def __init__(self, changes: Iterable[Change], names: Sequence[str]) -> None:
        """`names` are the configured names of all identities, the most telling first."""
        self._names = names
        self._parents: dict[User, User] = {}
        """Users whose identities changed: each leads, over any number of others, to the same one."""
        for change in changes:
            if change.type == IDENTITY_CHANGED:
                self._unite(change)

    def user_of(self, change: Change) -> User:
        """The user that a change tells of; for the end of an audience, nobody of that audience."""
        name, value = self._identify(change.user_identities)
        user = (change.audience_id, name, value)
        return self._root(user) if self._parents else user

    def _identify(self, identities: dict[str, str]) -> tuple[str, str]:
        for name in self._names:
            if value := identities.get(name):
                return name, value
        return next(((name, "") for name in self._names if name in identities), ("", ""))

    def _unite(self, change: Change) -> None:
        before = self._root((change.audience_id, *self._identify(change.previous_user_identities)))
        after = self._root((change.audience_id, *self._identify(change.user_identities)))
        if before != after:
            self._parents[after] = before

    def _root(self, user: User) -> User:
        root = user
        while root in self._parents:
            root = self._parents[root]
        while user != root:
            self._parents[user], user = root, self._parents[user]
        return root


def identified(changes: Sequence[Change], names: Sequence[str]) -> list[User]:
    """The user that each of these changes tells of, if none of them is an identity change.

    `names` are the configured names of all identities, the most telling first.
    """
    for name in names:
        values = [change.user_identities.get(name) for change in changes]
        if all(values):
            # Most messages: one identity tells all users.
            audience_ids = [change.audience_id for change in changes]
            return list(zip(audience_ids, repeat(name), values, strict=False))  # type: ignore[arg-type]
        if any(values):
            break
    return list(map(Users((), names).user_of, changes))
