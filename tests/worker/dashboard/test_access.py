"""Nobody from elsewhere opens the dashboard without a password."""

import pytest

from worker.dashboard.access import credentials, listening_address
from worker.errors import SettingError


@pytest.mark.parametrize(
    ("address", "is_guarded", "listens_on"),
    [
        ("", False, "127.0.0.1"),
        ("127.0.0.1", False, "127.0.0.1"),
        ("127.1.2.3", False, "127.1.2.3"),
        ("::1", False, "::1"),
        ("localhost", False, "localhost"),
        ("", True, ""),
        ("0.0.0.0", True, "0.0.0.0"),
        ("10.0.0.7", True, "10.0.0.7"),
        ("dashboard.example.org", True, "dashboard.example.org"),
    ],
)
def test_address(address, is_guarded, listens_on):
    assert listening_address(address, is_guarded=is_guarded) == listens_on


@pytest.mark.parametrize(
    "address", ["0.0.0.0", "::", "10.0.0.7", "dashboard.example.org", "localhost.example"]
)
def test_an_open_dashboard_is_refused_and_told_how_to_be_guarded(address):
    with pytest.raises(SettingError, match=r"FLOWER_BASIC_AUTH=user:password.*--address=127\.0\.0\.1"):
        listening_address(address, is_guarded=False)


@pytest.mark.parametrize(
    ("basic_auth", "given"),
    [
        (None, []),
        ([], []),
        ([""], []),
        (["admin:secret"], ["admin:secret"]),
        (["admin:secret", "guest:with:colons", ""], ["admin:secret", "guest:with:colons"]),
    ],
)
def test_credentials(basic_auth, given):
    assert credentials(basic_auth) == given


@pytest.mark.parametrize("half", ["admin", "admin:", ":secret", ":"])
def test_half_of_a_credential_is_refused(half):
    with pytest.raises(SettingError, match="user:password"):
        credentials(["admin:secret", half])


def test_a_refused_credential_is_not_repeated():
    with pytest.raises(SettingError) as refused:
        credentials(["hunter2"])

    assert "hunter2" not in str(refused.value)
