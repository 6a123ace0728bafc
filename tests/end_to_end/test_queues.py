"""Which queues a worker consumes, and what stays apart."""

import subprocess

import pytest
from waiting import eventually

from devstack import processes
from devstack.firehose import error, fail
from worker.queues import CHANGES_QUEUE

on_rabbitmq = pytest.mark.parametrize("broker", ["rabbitmq"], indirect=True)
"""The broker that refuses to have a queue consumed that it does not know, and then all others."""


def test_a_new_connection_is_consumed_while_the_worker_runs(stack):
    audience = stack.audience()
    stack.send(*audience.added("secretive-1"))
    eventually(audience.received)


def test_the_queue_of_a_removed_connection_is_left_alone(stack, audience, another_audience):
    stack.services.registry.disconnect(audience.connection_id)
    logged = f"{audience.stream.queue}: not connected"
    eventually(lambda: logged in stack.logs[0].read_text())
    stack.call(audience.stream.task, {}, queue=audience.stream.queue)
    # The worker may have been listening still, and then puts it back.
    eventually(lambda: audience.waiting() == 1)
    stack.send(*another_audience.added("secretive-1"))
    eventually(another_audience.received)
    assert audience.waiting() == 1
    stack.empty(audience.stream.queue)


def test_an_audience_may_have_several_streams(stack, audience, another_audience):
    stack.audience(number=audience.id, stream=another_audience.stream.name, append_newline=False)
    eventually(lambda: stack.send(*audience.added("secretive-1")) and another_audience.received())
    eventually(audience.received)
    assert audience.received()[0] == another_audience.received()[0] + b"\n"


def test_the_same_name_under_another_account_is_another_stream(stack):
    stack.configure("account-a", access_key_id="AKIASECRETIVE000A")
    stack.configure("account-b", access_key_id="AKIASECRETIVE000B")
    stack.firehose.create("shared-name", access_key_id="AKIASECRETIVE000A")
    stack.firehose.create("shared-name", access_key_id="AKIASECRETIVE000B")
    stack.firehose.faults.append(
        lambda call: error("AccessDeniedException") if call.access_key_id.endswith("B") else None
    )
    a = stack.audience(configuration="account-a", stream="shared-name")
    b = stack.audience(configuration="account-b", stream="shared-name")
    eventually(lambda: stack.send(*b.added("secretive-b")) and b.letters())
    eventually(lambda: stack.services.circuit_breakers.get(b.stream))
    stack.send(*a.added("secretive-a"))
    (line,) = eventually(lambda: stack.firehose.accepted("shared-name", access_key_id="AKIASECRETIVE000A"))
    assert b"secretive-a" in line
    assert not stack.services.circuit_breakers.get(a.stream)
    assert not stack.firehose.accepted("shared-name", access_key_id="AKIASECRETIVE000B")


def test_a_failing_stream_does_not_hold_up_another(stack, audience, another_audience):
    stack.firehose.faults.append(fail(error("InternalFailure", 500), stream=audience.stream.name))
    stack.send(*audience.added("secretive-late"), *another_audience.added("secretive-on-time"))
    eventually(another_audience.received)


def test_a_worker_delivers_to_the_regions_it_is_given(idle_stack):
    mine, other = idle_stack.audience(region="eu-west-1"), idle_stack.audience()
    with idle_stack.worker(env={"AUDIENCE_REGIONS": "eu-west-1"}):
        idle_stack.send(*mine.added("secretive-mine"), *other.added("secretive-other"))
        eventually(mine.received)
        eventually(other.waiting)
        # A second change that is delivered shows that the worker had time for the other stream's message.
        idle_stack.send(*mine.added("secretive-second"))
        eventually(lambda: len(mine.received()) == 2)
        assert not other.received()


def test_q_narrows_a_worker_to_the_queues_it_names(idle_stack):
    mine, other = idle_stack.audience(), idle_stack.audience()
    with idle_stack.worker("-Q", f"audience.changes,{mine.stream.queue}"):
        idle_stack.send(*mine.added("secretive-mine"), *other.added("secretive-other"))
        eventually(mine.received)
        eventually(other.waiting)
        # A second change that is delivered shows that the worker had time for the other stream's message.
        idle_stack.send(*mine.added("secretive-second"))
        eventually(lambda: len(mine.received()) == 2)
        assert not other.received()


@pytest.mark.parametrize("name", ["changes", "stream"])
def test_a_queue_that_cancel_consumer_took_away_is_consumed_again(idle_stack, name):
    audience = idle_stack.audience()
    queue = CHANGES_QUEUE if name == "changes" else audience.stream.queue
    with idle_stack.worker("--concurrency", "1", "--without-mingle") as worker:
        idle_stack.send(*audience.added("secretive-1"))
        eventually(audience.received)
        assert idle_stack.caller.control.cancel_consumer(queue, reply=True)
        eventually(lambda: f"Canceling queue {queue}" in worker.output())
        idle_stack.send(*audience.added("secretive-2"))
        eventually(lambda: len(audience.received()) == 2)


def test_accepted_changes_cannot_be_purged(idle_stack):
    audience = idle_stack.audience()
    idle_stack.send(*audience.added("secretive-1"))
    command = processes.installed(["celery", "-A", "worker", "purge", "--force"])
    env = processes.private_environment(idle_stack.environment)
    purge = subprocess.run(command, env=env, cwd=processes.ROOT, capture_output=True, text=True, check=False)
    assert purge.returncode == 1
    assert f"Error: {CHANGES_QUEUE} is not purged" in purge.stderr
    assert "Traceback" not in purge.stderr
    with idle_stack.worker("--concurrency", "1", "--without-mingle"):
        eventually(audience.received)


@on_rabbitmq
def test_a_stream_comes_back_though_its_queue_was_deleted_meanwhile(idle_stack):
    audience, other = idle_stack.audience(), idle_stack.audience()
    with idle_stack.worker("--concurrency", "1", "--without-mingle") as worker:
        idle_stack.services.registry.disconnect(audience.connection_id)
        eventually(lambda: f"{audience.stream.queue}: not connected" in worker.output())
        delete(audience)
        idle_stack.audience(number=audience.id, stream=audience.stream.name)
        eventually(lambda: f"{audience.stream.queue}: flowing" in worker.output())
        idle_stack.send(*audience.added("secretive-1"), *other.added("secretive-2"))
        eventually(audience.received)
        eventually(other.received)
        assert "cannot consume" not in worker.output()


@on_rabbitmq
def test_a_worker_outlives_the_deletion_of_a_queue_that_it_consumes(idle_stack):
    slow, other = idle_stack.audience(stream_quota="1requests/s"), idle_stack.audience()
    with idle_stack.worker("--concurrency", "1", "--without-mingle") as worker:
        idle_stack.send(*slow.added("secretive-1"))
        eventually(slow.received)
        delete(slow)
        eventually(lambda: "Connection to broker lost" in worker.output())
        idle_stack.send(*other.added("secretive-2"))
        eventually(other.received)


@on_rabbitmq
def test_a_batch_sent_to_a_deleted_queue_is_delivered_all_the_same(idle_stack):
    audience = idle_stack.audience()
    breakers, counters = idle_stack.services.circuit_breakers, idle_stack.services.counters
    with idle_stack.worker("--concurrency", "1", "--without-mingle") as worker:
        idle_stack.send(*audience.added("secretive-1"))
        eventually(audience.received)
        breakers.pause(audience.stream, "operator")
        eventually(lambda: f"{audience.stream.queue}: paused" in worker.output())
        delete(audience)
        idle_stack.send(*audience.added("secretive-2"))
        eventually(lambda: counters.of(audience.stream).enqueued == 2)
        breakers.resume(audience.stream)
        eventually(lambda: len(audience.received()) == 2)


def delete(audience):
    """As an operator may in RabbitMQ's own pages."""
    with audience.stack.caller.connection() as connection:
        connection.default_channel.queue_delete(audience.stream.queue)
