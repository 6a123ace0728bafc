"""docker-compose.yml and the Dockerfile: valid, closed to strangers, and running what the tests run."""

import json
import re
import subprocess
from urllib.parse import urlsplit

import pytest
import yaml

from devstack import processes
from worker.config import FILE_VARIABLES
from worker.dashboard.access import listening_address
from worker.errors import SettingError

ROOT = processes.ROOT
COMPOSE = ROOT / "docker-compose.yml"
SERVICES = yaml.safe_load(COMPOSE.read_text("utf-8"))["services"]
DOCKERFILE = (ROOT / "Dockerfile").read_text("utf-8")
OURS = ("worker", "dashboard")


def test_the_compose_file_is_valid_by_its_specification():
    check = processes.installed(["check-jsonschema", "--builtin-schema", "vendor.compose-spec"])

    done = subprocess.run([*check, COMPOSE], capture_output=True, text=True, check=False)

    assert done.returncode == 0, done.stdout


def test_the_commands_of_compose_are_those_that_the_tests_run():
    assert tuple(SERVICES["worker"]["command"]) == processes.worker_command()
    assert tuple(SERVICES["dashboard"]["command"]) == processes.dashboard_command("0.0.0.0", 5555)
    assert tuple(SERVICES["firehose"]["entrypoint"]) == processes.moto_command("0.0.0.0", 5000)
    program, *settings = SERVICES["redis"]["command"]
    assert program == "redis-server"
    assert tuple(settings[: len(processes.REDIS_SETTINGS)]) == processes.REDIS_SETTINGS


def test_the_state_can_be_on_a_server_of_its_own():
    (url,) = re.findall(r"export AUDIENCE_REDIS_URL=(\S+)", COMPOSE.read_text("utf-8"))

    state = SERVICES[urlsplit(url).hostname]
    assert state["command"] == SERVICES["redis"]["command"]
    assert state["profiles"] == ["two-servers"]
    assert not set(state["volumes"]) & set(SERVICES["redis"]["volumes"])


def test_the_image_runs_a_worker():
    command = re.search(r"^CMD (.+)$", DOCKERFILE, re.MULTILINE)

    assert tuple(json.loads(command[1])) == processes.worker_command()


@pytest.mark.parametrize("service", OURS)
def test_compose_passes_every_setting_on(service):
    read = set(re.findall(r'"((?:AUDIENCE|CELERY)_[A-Z_]+)"', (ROOT / "worker/config.py").read_text()))

    assert read
    assert read <= SERVICES[service]["environment"].keys()


@pytest.mark.parametrize("service", OURS)
def test_a_secret_may_come_from_a_file_in_place_of_the_default(service):
    environment = SERVICES[service]["environment"]
    expected = {name for name in FILE_VARIABLES if FILE_VARIABLES[name] in environment}

    assert expected
    assert all(environment[name] is None for name in expected)
    # `:-` and `:?` would put a value beside the file for a variable that is set to nothing.
    assert not any(re.search(r":[-?]", environment[FILE_VARIABLES[name]] or "") for name in expected)


def test_compose_holds_no_secret():
    given = {name: value for service in OURS for name, value in SERVICES[service]["environment"].items()}

    assert all(given[name] is None for name in given if re.search("SECRET|KEY|TOKEN", name))


def test_the_dashboard_does_not_start_without_a_password():
    assert SERVICES["dashboard"]["environment"]["FLOWER_BASIC_AUTH"].startswith("${FLOWER_BASIC_AUTH?")
    # Set to nothing, without a file beside it, it ends the dashboard.
    assert "--address=0.0.0.0" in SERVICES["dashboard"]["command"]
    with pytest.raises(SettingError):
        listening_address("0.0.0.0", is_guarded=False)


def test_nothing_is_published_beyond_this_machine():
    published = [port for service in SERVICES.values() for port in service.get("ports", [])]

    assert published
    assert all(port.startswith("127.0.0.1:") for port in published)


def test_workers_can_be_scaled():
    assert not SERVICES["worker"].keys() & {"container_name", "ports", "hostname"}


@pytest.mark.parametrize("service", SERVICES.values(), ids=SERVICES)
def test_every_service_is_watched_and_contained(service):
    assert service["healthcheck"]["test"]
    assert service["restart"] == "unless-stopped"
    assert service["read_only"]
    assert service["init"]
    assert service["cap_drop"] == ["ALL"]
    assert service["deploy"]["resources"]["limits"].keys() >= {"cpus", "memory"}


def test_the_image_is_pinned_and_runs_without_root():
    installs = re.findall(r"install [^&\n]+", DOCKERFILE)

    assert all("--require-hashes" in install or "--no-deps" in install for install in installs)
    assert re.search(r"^USER [1-9]\d*$", DOCKERFILE, re.MULTILINE)
    assert "STOPSIGNAL SIGTERM" in DOCKERFILE
