"""A Redis Cluster of three masters, with or without replicas, on loopback."""

from contextlib import ExitStack
from pathlib import Path

from redis import Redis
from redis.crc import REDIS_CLUSTER_HASH_SLOTS
from waiting import eventually

from devstack import processes
from devstack.ports import free_port
from worker.store.cluster import SLOT

MASTERS = 3
BUS_OFFSET = 10_000
"""A node's bus listens on its port plus this."""
FIRST_EPHEMERAL_PORT = 32_768
"""Linux gives ports from this on to connections that name none."""
SOON, LATE = 2_000, 30_000
"""Milliseconds after which a node is taken for failed, where a replica is to take over, and elsewhere.

A node on a busy machine is silent for a second now and then.
"""


class RedisCluster:
    """The nodes: three masters, and then as many replicas of the master that owns the state's slot."""

    def __init__(self, directory: Path, *options: str, replicas: int = 0) -> None:
        self._running = ExitStack()
        self._directory = directory
        self._options = ("--cluster-node-timeout", str(SOON if replicas else LATE), *options)
        self.ports = [bus_port() for _ in range(MASTERS + replicas)]
        try:
            self.nodes = [self._start(number) for number in range(len(self.ports))]
            self._join()
        except BaseException:
            self.stop()
            raise

    @property
    def url(self) -> str:
        """The URL of the second master. At first it does not own the state's slot."""
        return f"redis://{processes.LOOPBACK}:{self.ports[1]}"

    @property
    def urls(self) -> str:
        """The URLs of all nodes."""
        return ";".join(f"redis://{processes.LOOPBACK}:{port}" for port in self.ports)

    def client(self, number: int) -> Redis:
        """A client of one node."""
        return Redis(port=self.ports[number], decode_responses=True)

    def owner(self) -> int:
        """The number of the node that owns the state's slot, as the second master knows it."""
        return self.ports.index(_slot_owner(self.client(1)))

    def flush(self) -> None:
        """Remove all keys of all masters."""
        for number in range(MASTERS):
            self.client(number).flushall()

    def migrate(self, target: int) -> None:
        """Move the state's slot, which exists on its owner, to another master."""
        begun = self.begin_migration(target)
        next(begun)
        for _ in begun:
            pass

    def begin_migration(self, target: int):
        """Move the state's slot; yields between the steps: begun, keys moved."""
        # The nodes tell each other of the last migration.
        eventually(self._do_masters_agree, what="one owner of the state's slot in the eyes of all masters")
        source, target_client = self.client(self.owner()), self.client(target)
        source_id, target_id = (client.cluster("MYID") for client in (source, target_client))
        target_client.cluster("SETSLOT", SLOT, "IMPORTING", source_id)
        source.cluster("SETSLOT", SLOT, "MIGRATING", target_id)
        yield
        while keys := source.cluster("GETKEYSINSLOT", SLOT, 100):
            address = (processes.LOOPBACK, self.ports[target])
            source.execute_command("MIGRATE", *address, "", 0, 5_000, "KEYS", *keys)
        yield
        for client in (target_client, source, *map(self.client, range(MASTERS))):
            client.cluster("SETSLOT", SLOT, "NODE", target_id)

    def _do_masters_agree(self) -> bool:
        return len({_slot_owner(self.client(number)) for number in range(MASTERS)}) == 1

    def is_ok(self) -> bool:
        """Whether each node sees a master for each slot."""
        infos = [self.client(number).cluster("INFO") for number in range(len(self.ports))]
        return all(info["cluster_state"] == "ok" for info in infos)

    def stop(self) -> None:
        self._running.close()

    def _start(self, number: int) -> processes.Process:
        directory = self._directory / f"node{number}"
        directory.mkdir()
        options = (
            "--cluster-enabled",
            "yes",
            "--cluster-replica-validity-factor",
            "0",
            "--repl-ping-replica-period",
            "1",
            *self._options,
        )
        started = processes.redis(directory, *options, port=self.ports[number])
        return self._running.enter_context(started)[0]

    def _join(self) -> None:
        bounds = [REDIS_CLUSTER_HASH_SLOTS * number // MASTERS for number in range(MASTERS + 1)]
        for number in range(MASTERS):
            client = self.client(number)
            client.cluster("SET-CONFIG-EPOCH", number + 1)
            client.cluster("ADDSLOTS", *range(bounds[number], bounds[number + 1]))
        for port in self.ports[1:]:
            self.client(0).cluster("MEET", processes.LOOPBACK, port)
        eventually(lambda: all(self._knows_all(number) for number in range(len(self.ports))))
        for number in range(MASTERS, len(self.ports)):
            self.client(number).cluster("REPLICATE", self.client(self.owner()).cluster("MYID"))
        eventually(lambda: all(self._is_linked(number) for number in range(MASTERS, len(self.ports))))
        eventually(self.is_ok)

    def _knows_all(self, number: int) -> bool:
        return len(self.client(number).cluster("NODES")) == len(self.ports)

    def _is_linked(self, number: int) -> bool:
        return bool(self.client(number).info("replication").get("master_link_status") == "up")


def bus_port() -> int:
    """A free port whose bus has a port that no connection is given."""
    return next(port for port in iter(free_port, None) if port + BUS_OFFSET < FIRST_EPHEMERAL_PORT)


def _slot_owner(client: Redis) -> int:
    slots = client.cluster("SLOTS")
    return next(int(owner[1]) for first, last, owner, *_ in slots if first <= SLOT <= last)
