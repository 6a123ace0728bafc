"""Credentials that this worker cannot get: the cause is named, and no secret; nobody is asked for a code."""

import sys

import pytest

from schemas.settings import Configuration
from worker.firehose.clients import Clients
from worker.firehose.errors import FIREHOSE_ERRORS, Kind, classify

ROLE = "arn:aws:iam::123456789012:role/worker"


@pytest.fixture
def profile(monkeypatch, tmp_path):
    """Make the environment's credentials those of a profile with these lines."""

    def write(text):
        config = tmp_path / "config"
        config.write_text(text)
        monkeypatch.setenv("AWS_CONFIG_FILE", str(config))
        monkeypatch.setenv("AWS_PROFILE", "worker")

    return write


def trouble():
    """The classification of the error that making a client meets."""
    try:
        Clients(cipher=None, read_timeout=5).get(Configuration("main"), "us-east-1")
    except FIREHOSE_ERRORS as error:
        found = classify(error)
        assert found.kind is Kind.WORKER_TROUBLE
        assert "secretive" not in repr(found)
        return found.failure.message
    raise AssertionError("there are credentials")


def test_a_profile_that_asks_for_an_mfa_code_is_refused_and_nobody_is_prompted(profile, monkeypatch):
    profile(
        "[profile worker]\n"
        f"role_arn = {ROLE}\nsource_profile = source\nmfa_serial = arn:aws:iam::123456789012:mfa/x\n"
        "[profile source]\naws_access_key_id = AKIASECRETIVE0001\naws_secret_access_key = secretive\n"
    )
    monkeypatch.setattr(sys, "stdin", None)
    assert "MFA code" in trouble()


@pytest.mark.parametrize("kind", ["missing", "directory"])
def test_a_web_identity_token_file_that_cannot_be_read_is_named(monkeypatch, tmp_path, kind):
    token = tmp_path / "token"
    if kind == "directory":
        token.mkdir()
    monkeypatch.setenv("AWS_WEB_IDENTITY_TOKEN_FILE", str(token))
    monkeypatch.setenv("AWS_ROLE_ARN", ROLE)
    assert str(token) in trouble()


def test_a_credential_process_that_is_missing_is_named(profile):
    profile("[profile worker]\ncredential_process = /nowhere/at-all\n")
    assert "/nowhere/at-all" in trouble()


@pytest.mark.parametrize("output", ["secretive junk", "[]", '{"Version": 1}', '{"Version": 2}'])
def test_a_credential_process_that_prints_junk_is_reported_without_its_output(profile, tmp_path, output):
    printed = tmp_path / "printed"
    printed.write_text(output)
    profile(f"[profile worker]\ncredential_process = cat {printed}\n")
    assert "AWS credentials cannot be had" in trouble()


def test_a_credential_process_that_fails_is_reported_without_its_output(profile):
    profile("[profile worker]\ncredential_process = ls /secretive\n")
    assert "custom-process" in trouble()


def test_an_sso_session_that_has_expired_is_reported(profile, monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    profile(
        "[profile worker]\nsso_session = mine\nsso_account_id = 123456789012\nsso_role_name = worker\n"
        "[sso-session mine]\nsso_start_url = https://example.awsapps.com/start\nsso_region = us-east-1\n"
    )
    assert "SSO" in trouble()


def test_a_source_profile_that_is_lost_is_named(profile):
    profile(f"[profile worker]\nrole_arn = {ROLE}\nsource_profile = lost\n")
    assert "lost" in trouble()
