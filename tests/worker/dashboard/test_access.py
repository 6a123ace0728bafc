"""Nobody from elsewhere opens the dashboard without a password."""

from base64 import b64encode

import pytest

from worker.dashboard.access import (
    ATTEMPTS_AT_ONCE,
    Access,
    Request,
    Role,
    User,
    credentials,
    listening_address,
)
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
def test_the_address_on_which_a_dashboard_listens(address, is_guarded, listens_on):
    assert listening_address(address, is_guarded=is_guarded) == listens_on


@pytest.mark.parametrize(
    "address", ["0.0.0.0", "::", "10.0.0.7", "dashboard.example.org", "localhost.example"]
)
def test_a_dashboard_without_a_password_on_a_public_address_is_refused_with_advice(address):
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
def test_credentials_are_those_given_without_empty_ones(basic_auth, given):
    assert credentials(basic_auth) == given


@pytest.mark.parametrize("half", ["admin", "admin:", ":secret", ":"])
def test_a_credential_without_user_or_password_is_refused(half):
    with pytest.raises(SettingError, match="user:password"):
        credentials(["admin:secret", half])


def test_a_refused_credential_is_not_repeated():
    with pytest.raises(SettingError) as refused:
        credentials(["hunter2"])

    assert "hunter2" not in str(refused.value)


def test_a_password_that_http_cannot_carry_is_refused_at_the_start():
    with pytest.raises(SettingError, match="ASCII"):
        credentials(["admin:pässword"])


def access(clock, operators=("admin:secret",), viewers=("guest:look",), **options):
    options = {"address": "", "uses_oauth": False, "allows_control": False} | options
    return Access(operators, viewers, monotonic=clock, **options)


def basic(credential):
    return f"Basic {b64encode(credential.encode()).decode()}"


def request(path="/alerts", credential="admin:secret", method="GET", host="dashboard", address="10.0.0.1"):
    authorization = basic(credential) if credential else ""
    return Request(method, path, host, authorization, address)


def status(refusal):
    return refusal and refusal.status


def test_an_operator_may_read_and_change(clock):
    control = access(clock)

    assert control.refusal(request()) is None
    assert control.refusal(request(method="POST")) is None
    assert control.user(basic("admin:secret")) == User("admin", Role.OPERATOR)


def test_a_viewer_may_read_and_not_change(clock):
    control = access(clock)

    assert control.refusal(request(credential="guest:look")) is None
    assert status(control.refusal(request(credential="guest:look", method="POST"))) == 403
    assert control.user(basic("guest:look")) == User("guest", Role.VIEWER)


@pytest.mark.parametrize("credential", ["admin:wrong", "admin:", "nobody:secret", "admin:pässword", None])
def test_a_wrong_password_is_refused_with_401(clock, credential):
    assert status(access(clock).refusal(request(credential=credential))) == 401


@pytest.mark.parametrize("authorization", ["Basic", "Basic !", "Basic \xe4", "Bearer token", "Basic YQ=="])
def test_a_malformed_authorization_is_refused_with_401(clock, authorization):
    assert status(access(clock).refusal(request()._replace(authorization=authorization))) == 401


def test_after_ten_wrong_passwords_an_address_has_one_attempt_a_second(clock):
    control = access(clock)
    for _ in range(ATTEMPTS_AT_ONCE):
        assert status(control.refusal(request(credential="admin:wrong"))) == 401

    assert status(control.refusal(request())) == 429, "even the right password is not compared"
    assert control.refusal(request(address="10.0.0.2")) is None, "others are not slowed down"
    clock.advance(1)
    assert status(control.refusal(request(credential="admin:wrong"))) == 401
    assert status(control.refusal(request())) == 429
    clock.advance(1)
    assert control.refusal(request()) is None


def test_health_checks_need_no_password(clock):
    assert access(clock).refusal(request("/healthcheck", credential=None)) is None


@pytest.mark.parametrize("path", ["/metrics", "/api/queues/length", "/static/css/flower.css"])
def test_every_other_address_needs_the_password(clock, path):
    assert status(access(clock).refusal(request(path, credential=None))) == 401


@pytest.mark.parametrize("host", ["localhost:5555", "127.0.0.1:5555", "127.0.0.1", "[::1]:5555", "[::1]"])
def test_without_a_password_this_machine_s_names_are_served(clock, host):
    assert access(clock, (), ()).refusal(request(host=host)) is None


@pytest.mark.parametrize("host", ["evil.example:5555", "127.0.0.1.evil.example", "", "10.0.0.7"])
def test_without_a_password_no_other_name_is_served(clock, host):
    assert status(access(clock, (), ()).refusal(request(host=host))) == 403


@pytest.mark.parametrize("path", ["/api/task/send-task/audience.forward", "/api/worker/shutdown/celery@a"])
def test_flower_s_api_that_controls_workers_is_off_unless_asked_for(clock, path):
    post = request(path, method="POST")

    assert status(access(clock).refusal(post)) == 403
    assert access(clock, allows_control=True).refusal(post) is None
