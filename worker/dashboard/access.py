"""Who reaches the dashboard: without a password nobody but this machine."""

from collections.abc import Iterable
from ipaddress import ip_address

from worker.errors import SettingError

LOOPBACK = "127.0.0.1"


def credentials(basic_auth: Iterable[str] | None) -> list[str]:
    """What `--basic-auth` says, without the empty ones that an unset variable leaves behind.

    Raises `SettingError` where one is not `user:password`: half of one would let in whoever guesses
    the other half.
    """
    given = [credential for credential in basic_auth or () if credential]
    for credential in given:
        user, _, password = credential.partition(":")
        if not (user and password):
            raise SettingError(
                "FLOWER_BASIC_AUTH: must be user:password, or several of them with commas between"
            )
    return given


def listening_address(address: str, *, is_guarded: bool) -> str:
    """The address to listen on; an empty one stands for all of them.

    Raises `SettingError` where others than this machine's users could come in unasked.
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
