"""The machine and the versions that a figure depends on."""

import os
import platform
import re
import subprocess
from datetime import date
from importlib.metadata import version
from pathlib import Path

import psutil

from devstack.processes import redis_server

PACKAGES = ("celery", "kombu", "redis", "boto3", "botocore", "orjson", "marshmallow")
GIB = 2**30


def describe_machine() -> str:
    """A line: the day, processor, cores, memory, load, and versions."""
    versions = [f"Redis {_redis_version()}", *(f"{name} {version(name)}" for name in PACKAGES)]
    memory = psutil.virtual_memory().total / GIB
    load, today = os.getloadavg()[0], date.today().isoformat()
    return (
        f"{today}: {_processor()}, {os.cpu_count()} cores, {memory:.0f} GiB, load {load:.1f};"
        f" {platform.system()}, Python {platform.python_version()}, {', '.join(versions)}"
    )


def _processor() -> str:
    """The processor's name; where the system does not tell it, its architecture."""
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8").splitlines()
    except OSError:
        return platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def _redis_version() -> str:
    said = subprocess.run([redis_server(), "--version"], check=True, capture_output=True, text=True).stdout
    found = re.search(r"v=(\S+)", said)
    return found[1] if found else said.strip()
