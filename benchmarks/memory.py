"""The memory that Redis uses for what it keeps."""

from time import sleep

from benchmarks.stack import Stack

SETTLE_SECONDS = 0.5
"""Seconds in which Redis frees what it buffered."""


def used_bytes(stack: Stack) -> int:
    """Bytes of Redis but for its clients' buffers and that of the append-only file."""
    sleep(SETTLE_SECONDS)
    info = stack.broker.info("memory")
    return int(info["used_memory"] - info["mem_clients_normal"] - info["mem_aof_buffer"])
