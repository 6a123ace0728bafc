"""Leases: expiring keys that hold an owner token. Only the owner releases one."""

from worker.store.scripts import Script

RELEASE_LEASE = Script(__package__, "release_lease")
"""`RELEASE_LEASE(redis, keys=leases, args=[owner_token])`."""
