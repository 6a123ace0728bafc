"""More than one machine: hosts with addresses of their own, some of which do not hear each other for a while.

A worker that is cut off ends the calls that it has in flight, and another worker repeats them. It begins no
other call: that takes a lease in Redis.
"""

import threading
from contextlib import ExitStack

import pytest
from chaos import CONCURRENCY, HASTE, PATIENT, RECORDS, in_full
from kombu.exceptions import OperationalError
from load import Load
from network import Network, NoNetworkError, losing, parted
from redis.exceptions import RedisError
from redis_hosts import MASTER, REDIS_PORT, RedisHosts, client, follows, is_master
from sentineled import Sentineled
from stack import Stack
from waiting import eventually

from devstack.firehose import Answer, FakeFirehose

REFUSED = "the counters are recorded later"
ISOLATED_MASTER = ("--min-replicas-to-write", "1", "--min-replicas-max-lag", "2")
"""A master without a replica accepts no write after two to three seconds."""
NEITHER_HEARS = "neither hears the other"
CUTS = {
    NEITHER_HEARS: lambda worker, redis: parted([worker], [redis]),
    "redis does not hear the worker": lambda worker, redis: losing([worker], [redis]),
    "the worker does not hear redis": lambda worker, redis: losing([redis], [worker]),
}


class HeldCalls:
    """Calls of the workers on some hosts: Firehose takes their records, and answers once they are let go."""

    def __init__(self, firehose, hosts):
        self._firehose = firehose
        self._addresses = {host.address for host in hosts}
        self._held, self._go = [], threading.Event()
        firehose.faults.append(self._hold)

    def wait(self):
        """Wait until each process of these workers has a call in flight: how many records these hold."""
        eventually(lambda: len(self._held) == CONCURRENCY * len(self._addresses))
        return sum(self._held)

    def let_go(self):
        """Answer, and hold no more."""
        if not self._go.is_set():
            self._firehose.faults.remove(self._hold)
        self._go.set()

    def _hold(self, call):
        if call.client_address not in self._addresses or not call.operation.startswith("Put"):
            return None
        self._held.append(len(call.records))
        return Answer(wait=self._go)


class Machines:
    """Hosts, and what runs on them. Firehose and the caller are in the test's process, on the host `here`."""

    def __init__(self, network, directory, parts):
        self.here = network.here
        self.host = network.host
        self.redis = RedisHosts(directory)
        self.firehose = FakeFirehose(address=network.here.address)
        self._directory, self._parts = directory, parts
        parts.callback(self.redis.stop)
        parts.enter_context(self.firehose)

    def stack(self, kind, url, **options):
        """A stack of this kind over the broker and the state of a URL."""
        stack = kind(self._directory, url, self.firehose, databases=(0, 1), **options)
        stack.configure("main")
        return stack

    def load(self, stack):
        """Changes of a caller that sends again what it is not sure of."""
        return Load(stack.audience(), RECORDS, refused_by=(OperationalError, RedisError))

    def start_worker(self, stack, host, **env):
        """Start a worker on a host; it ends with the story."""
        options = ("--concurrency", str(CONCURRENCY), "--without-mingle")
        env = HASTE | {"NO_PROXY": "*", "no_proxy": "*"} | env
        worker = self._parts.enter_context(stack.worker(*options, env=env, inside=host.inside))
        # Stopping well has stories of its own.
        self._parts.callback(worker.kill)
        return worker

    def hold_calls(self, *hosts):
        """Hold the calls of the workers on these hosts, at the latest until the story ends."""
        calls = HeldCalls(self.firehose, hosts)
        self._parts.callback(calls.let_go)
        return calls


@pytest.fixture
def machines(tmp_path):
    with ExitStack() as parts:
        try:
            network = parts.enter_context(Network())
        except NoNetworkError as error:
            pytest.skip(str(error))
        yield Machines(network, tmp_path, parts)


def leave_old_master(stack):
    """Close the test's own connections: the next command over each would end with an error first."""
    stack.services.redis.connection_pool.disconnect()


@pytest.mark.parametrize("cut", [NEITHER_HEARS, *in_full(*((cut,) for cut in CUTS if cut != NEITHER_HEARS))])
def test_a_worker_that_is_cut_off_from_redis_loses_nothing_and_repeats_its_calls_in_flight(
    machines, tell, cut
):
    redis, cut_off, other = (machines.host(name) for name in ("redis", "cut-off", "other"))
    machines.redis.start_server(redis)
    stack = machines.stack(Stack, f"redis://{redis.address}:{REDIS_PORT}")
    load = machines.load(stack)
    machines.start_worker(stack, cut_off, **PATIENT)
    calls = machines.hold_calls(cut_off)
    load.send(RECORDS // 2)
    in_flight = calls.wait()
    with CUTS[cut](cut_off, redis):
        stack.expire_what_is_in_flight()
        machines.start_worker(stack, other, **PATIENT)
        load.send()
        # Before the rest has arrived: a call that is held for longer than its timeout is retried besides.
        calls.let_go()
        load.arrive()
        load.settle()
    eventually(lambda: len(stack.inspect("ping")) == 2)
    load.settle()
    tell(load, f"{cut}, {in_flight} records in flight", allowed=in_flight)


@pytest.mark.full
def test_a_master_that_is_cut_off_loses_nothing_that_its_replica_has(machines, tell):
    names = ("master", "replica", "third", "worker-1", "worker-2")
    master, replica, third, *workers = (machines.host(name) for name in names)
    machines.redis.start_replicated(master, [replica])
    url = machines.redis.start_sentinels([third, *workers], master, replicas=1)
    stack = machines.stack(Sentineled, url, query=f"?master_name={MASTER}")
    load = machines.load(stack)
    for worker in workers:
        machines.start_worker(stack, worker)
    calls = machines.hold_calls(*workers)
    load.send(RECORDS // 2)
    in_flight = calls.wait()
    eventually(lambda: client(master).wait(1, 1000) == 1)
    with parted([master], [machines.here, replica, third, *workers]):
        load.send()
        assert is_master(replica)
        leave_old_master(stack)
        calls.let_go()
        load.arrive()
        load.settle()
    eventually(lambda: follows(master, replica))
    tell(load, f"master cut off, {in_flight} records in flight", allowed=in_flight)


@pytest.mark.full
def test_a_worker_that_is_cut_off_with_the_master_repeats_its_calls_in_flight(machines, tell):
    """The master, which has no replica any more, accepts no write: there is no lease for a further call."""
    names = ("master", "replica-1", "replica-2", "cut-off", "other", "third")
    master, *replicas, cut_off, other, third = (machines.host(name) for name in names)
    machines.redis.start_replicated(master, replicas, *ISOLATED_MASTER)
    url = machines.redis.start_sentinels([other, third, cut_off], master, replicas=2)
    stack = machines.stack(Sentineled, url, query=f"?master_name={MASTER}")
    load = machines.load(stack)
    zombie = machines.start_worker(stack, cut_off)
    machines.start_worker(stack, other)
    its_calls, other_calls = machines.hold_calls(cut_off), machines.hold_calls(other)
    load.send(RECORDS // 2)
    in_flight = its_calls.wait() + other_calls.wait()
    eventually(lambda: client(master).wait(2, 1000) == 2)
    rest = [other, third, *replicas]
    with parted([master], [machines.here, *rest]), parted([cut_off], rest):
        other_calls.let_go()
        load.send()
        leave_old_master(stack)
        eventually(lambda: not machines.redis.accepts_writes(master))
        # Before the rest has arrived: a call that is held for longer than its timeout is given up.
        its_calls.let_go()
        eventually(lambda: REFUSED in zombie.output())
        load.arrive()
        load.settle()
    (promoted,) = filter(is_master, replicas)
    eventually(lambda: follows(master, promoted))
    eventually(lambda: len(stack.inspect("ping")) == 2)
    load.settle()
    tell(load, f"master and a worker cut off, {in_flight} records in flight", allowed=in_flight)
