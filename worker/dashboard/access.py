"""Access control of the dashboard: passwords, roles, hosts, and the rate of wrong passwords.

Operators (`FLOWER_BASIC_AUTH`) may do everything, viewers (`AUDIENCE_VIEWER_AUTH`) may only read.
Without a password the dashboard serves this machine's users alone, and only under this machine's
names, so that no page of another site can reach it by DNS rebinding.

The rules are pure; `worker.dashboard.application` asks them for every request, Flower's own included.
"""

import hmac
from base64 import b64decode
from binascii import Error as Base64Error
from collections.abc import Callable, Iterable, Sequence
from enum import StrEnum
from ipaddress import ip_address
from typing import NamedTuple

from worker.errors import SettingError

LOOPBACK = "127.0.0.1"
OPEN_PATHS = frozenset({"/healthcheck"})
"""Orchestrators ask these without a password; they tell nothing."""
SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})
ATTEMPTS_AT_ONCE = 10
"""Wrong passwords of one address before it is slowed down."""
ATTEMPTS_PER_SECOND = 1.0
"""After these."""
MAX_ADDRESSES = 10_000
"""Addresses remembered at a time, a few hundred bytes each."""


class Role(StrEnum):
    """A user's rights."""

    OPERATOR = "operator"
    VIEWER = "viewer"


class User(NamedTuple):
    """A user who has given the right password."""

    name: str
    role: Role


class Refusal(NamedTuple):
    """An HTTP answer in place of the page."""

    status: int
    reason: str


class Request(NamedTuple):
    """The facts of a request that access depends on."""

    method: str
    path: str
    """Without `--url-prefix`."""
    host: str
    """The `Host` header, perhaps with a port."""
    authorization: str
    """The `Authorization` header; empty where there is none."""
    address: str
    """The client's."""


class Attempts:
    """Wrong passwords by address: a token bucket each."""

    def __init__(self, monotonic: Callable[[], float]) -> None:
        self._monotonic = monotonic
        self._spent: dict[str, tuple[float, float]] = {}
        """By address: tokens spent, and the clock's seconds when that was so."""

    def are_exhausted(self, address: str) -> bool:
        """Whether the address has to wait before its next password is compared."""
        return self._level(address) > ATTEMPTS_AT_ONCE - 1

    def record_failure(self, address: str) -> None:
        """Count a wrong password of an address."""
        if len(self._spent) >= MAX_ADDRESSES:
            self._spent = {known: spent for known, spent in self._spent.items() if self._level(known) > 0}
        if len(self._spent) < MAX_ADDRESSES or address in self._spent:
            self._spent[address] = self._level(address) + 1, self._monotonic()

    def _level(self, address: str) -> float:
        spent, at = self._spent.get(address, (0.0, 0.0))
        return max(spent - (self._monotonic() - at) * ATTEMPTS_PER_SECOND, 0.0)


class Access:
    """Decides which requests are served."""

    def __init__(
        self,
        operators: Sequence[str],
        viewers: Sequence[str],
        *,
        address: str,
        uses_oauth: bool,
        allows_control: bool,
        monotonic: Callable[[], float],
    ) -> None:
        """`operators` and `viewers` are `user:password` each; `address` is the one listened on."""
        self._users = dict.fromkeys(operators, Role.OPERATOR)
        self._users |= dict.fromkeys(viewers, Role.VIEWER)
        self._address = address
        self._uses_oauth = uses_oauth
        self._allows_control = allows_control
        self._attempts = Attempts(monotonic)

    def refusal(self, request: Request) -> Refusal | None:
        """The answer to a request that is not served; None where it is."""
        if request.path in OPEN_PATHS:
            return None
        if self._users:
            found = self._authenticate(request)
            if isinstance(found, Refusal):
                return found
            if found.role is Role.VIEWER and request.method not in SAFE_METHODS:
                return Refusal(403, "You may look at this dashboard, but not change anything with it.")
        elif not self._uses_oauth and not self._is_own_name(request.host):
            return Refusal(403, "Without a password the dashboard is served under this machine's name only.")
        if self._controls_workers(request) and not self._allows_control:
            return Refusal(
                403,
                "Running tasks and controlling workers over Flower's API is off;"
                " AUDIENCE_FLOWER_CONTROL=true turns it on.",
            )
        return None

    def user(self, authorization: str) -> User | None:
        """The user of an `Authorization` header; None where the password is wrong or missing."""
        given = _credential(authorization)
        found = None
        for credential, role in self._users.items():
            # All are compared, and as bytes: the time tells nothing, and any character may be sent.
            if hmac.compare_digest(credential.encode(), given):
                found = User(credential.partition(":")[0], role)
        return found

    def may_act(self, authorization: str) -> bool:
        """Whether this user may change anything."""
        if not self._users:
            return True
        user = self.user(authorization)
        return user is not None and user.role is Role.OPERATOR

    def _authenticate(self, request: Request) -> User | Refusal:
        if not request.authorization:
            return Refusal(401, "This dashboard needs a password.")
        if self._attempts.are_exhausted(request.address):
            return Refusal(429, "Too many wrong passwords; try again in a second.")
        found = self.user(request.authorization)
        if found is None:
            self._attempts.record_failure(request.address)
            return Refusal(401, "This dashboard needs a password.")
        return found

    def _is_own_name(self, host: str) -> bool:
        name = host.rpartition(":")[0] if not host.endswith("]") and ":" in host else host
        name = name.strip("[]")
        return is_loopback(name) or (bool(name) and name == self._address)

    @staticmethod
    def _controls_workers(request: Request) -> bool:
        return request.path.startswith("/api/") and request.method not in SAFE_METHODS


def credentials(basic_auth: Iterable[str] | None, variable: str = "FLOWER_BASIC_AUTH") -> list[str]:
    """The non-empty `user:password` of an option; an unset variable leaves empty ones behind.

    Raises `SettingError` where one is not `user:password`: with half of one, guessing the other half
    would be enough.
    """
    given = [credential for credential in basic_auth or () if credential]
    for credential in given:
        user, _, password = credential.partition(":")
        if not (user and password and credential.isascii()):
            raise SettingError(
                f"{variable}: must be user:password in ASCII, or several of them with commas between"
            )
    return given


def listening_address(address: str, *, is_guarded: bool) -> str:
    """The address to listen on; an empty one stands for all of them.

    Raises `SettingError` where users of other machines could come in without a password.
    """
    if is_guarded:
        return address
    if not address:
        return LOOPBACK
    if not is_loopback(address):
        raise SettingError(
            f"anybody who reaches {address} could open the dashboard and control the workers;"
            " set FLOWER_BASIC_AUTH=user:password (or --auth with an --auth-provider),"
            f" or keep it on this machine with --address={LOOPBACK}"
        )
    return address


def is_loopback(address: str) -> bool:
    """Whether only this machine reaches an address. A name other than `localhost` is not trusted to."""
    try:
        return ip_address(address).is_loopback
    except ValueError:
        return address == "localhost"


def _credential(authorization: str) -> bytes:
    """The `user:password` of a header, as its bytes; empty where it holds none."""
    scheme, _, encoded = authorization.partition(" ")
    if scheme.lower() != "basic":
        return b""
    try:
        return b64decode(encoded.strip().encode(), validate=True)
    except (Base64Error, UnicodeEncodeError):
        return b""
