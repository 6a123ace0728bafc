"""Retries run out, and somebody replays what is left."""

import os
import signal
import subprocess

from chaos import FULL, RECORDS
from firehose import Answer, error, fail
from waiting import eventually

from worker.local.processes import ROOT, Process, installed, private_environment

REPLAY = ("audience-firehose", "replay", "--all")
LETTERS = 2000 if FULL else 150


def exhaust(stack, load, start):
    """Every batch uses up its retries."""
    stack.firehose.faults.append(fail(error("InternalFailure", 500)))
    start(AUDIENCE_RETRY_MAX="1")
    load.send()
    eventually(lambda: load.books().dead == RECORDS, timeout=120, every=0.1)
    load.settle()
    stack.firehose.faults.clear()


def test_what_is_undelivered_is_dead_and_replayed_once(stack, load, start, tell):
    """Each batch loses a part of its records first: a letter holds exactly the others."""
    half = load.per_message // 2
    stack.firehose.faults.append(
        lambda call: error("InternalFailure", 500) if len(call.records) <= half else first_half(call)
    )
    start(AUDIENCE_RETRY_MAX="2")
    load.send()
    eventually(lambda: load.books().dead == RECORDS // 2, timeout=120, every=0.1)
    books = load.settle()
    assert (load.arrived(), books.counts.delivered, load.repeated) == (RECORDS // 2, RECORDS // 2, 0)
    fatal = [alert for alert in stack.state.alerts.all() if alert.severity == "fatal"]
    letters = stack.state.dead_letters.all()
    assert {alert.dead_letter_id for alert in fatal} == {letter.id for letter in letters}
    assert len(fatal) == len(letters) == RECORDS // load.per_message

    stack.firehose.faults.clear()
    for letter in letters:
        stack.replay(letter)
    load.arrive()
    books = load.settle()
    tell(load, f"{len(letters)} dead letters, replayed")
    assert (books.counts.delivered, books.dead) == (RECORDS, 0)
    states = stack.state.alerts.states()
    assert {states[alert.id] for alert in fatal} == {"resolved"}


def first_half(call):
    refused = range(len(call.records) // 2, len(call.records))
    return Answer(refused=dict.fromkeys(refused, "ServiceUnavailableException"))


def test_a_replay_is_interrupted_and_continued(stack, load, start, tell, tmp_path):
    load.per_message = RECORDS // LETTERS
    exhaust(stack, load, start)
    letters = len(stack.state.dead_letters.all())
    first = Process("replay", installed(REPLAY), tmp_path / "replay.log", stack.environment)
    with first:
        eventually(lambda: len(stack.state.dead_letters.all()) < letters, timeout=60, every=0.001)
        os.kill(first.pid, signal.SIGINT)
        eventually(lambda: not first.is_running)
    left = len(stack.state.dead_letters.all())
    assert 0 < left < letters
    assert "give the command again to go on" in first.output()
    second = subprocess.run(
        installed(REPLAY),
        env=private_environment(stack.environment),
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert f"replayed {left:,} dead letter" in second.stdout
    load.arrive()
    books = load.settle()
    tell(load, f"{letters} dead letters, a replay of them interrupted")
    assert (books.counts.delivered, books.dead) == (RECORDS, 0)
