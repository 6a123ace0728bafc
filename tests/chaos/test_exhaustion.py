"""Retries run out, and somebody replays what is left."""

import os
import signal
import subprocess
import sys

from chaos import ONE_BY_ONE, PATIENT, RECORDS
from full_size import FULL
from load import Load
from stopping_point import StoppingPoint
from waiting import eventually

from devstack.firehose import Answer, error, fail
from devstack.processes import ROOT, Process, installed, private_environment

REPLAY = ("audience-firehose", "replay", "--all")
REPLAY_THAT_STOPS = (
    *(sys.executable, "-c", "import stopping_point; from worker.cli import main; main()"),
    *REPLAY[1:],
)
LETTERS = 2000 if FULL else 60
EXHAUSTED_SECONDS = 600 if FULL else 120
"""A busy machine took two minutes for a third of the 4,000 calls of a full story."""


def exhaust(stack, load, start, retries):
    """Wait until every batch has used up its retries. Returns the counters."""
    stack.firehose.faults.append(refuse_two_fifths)
    start(AUDIENCE_RETRY_MAX=str(retries), **PATIENT, **ONE_BY_ONE)
    load.send()
    dead = RECORDS // load.per_message * left(load.per_message, calls=retries + 1)
    eventually(lambda: load.status().dead == dead, timeout=EXHAUSTED_SECONDS, every=0.1)
    status = load.settle()
    assert (load.arrived(), status.counts.delivered, load.repeated) == (RECORDS - dead, RECORDS - dead, 0)
    stack.firehose.faults.clear()


def refuse_two_fifths(call):
    """Less than a half: a stream that takes most of a batch is not left alone for a while."""
    records = len(call.records)
    refused = range(records - left(records, calls=1), records)
    return Answer(refused=dict.fromkeys(refused, "ServiceUnavailableException"))


def left(records, calls):
    """How many of a batch's records are still to be put after so many calls."""
    for _ in range(calls):
        records = records * 2 // 5
    return records


def test_records_that_spend_their_retries_are_dead_letters_and_are_replayed_once(stack, load, start, tell):
    """Each batch loses most of its records first: a letter holds exactly the others."""
    exhaust(stack, load, start, retries=2)
    (fatal,) = [alert for alert in stack.services.alerts.all() if alert.severity == "fatal"]
    letters = stack.services.dead_letters.all()
    assert fatal.occurrences == len(letters) == RECORDS // load.per_message
    assert fatal.records == sum(letter.records for letter in letters)

    for letter in letters:
        stack.replay(letter)
    load.arrive()
    status = load.settle()
    tell(load, f"{len(letters)} dead letters, replayed")
    assert (status.counts.delivered, status.dead) == (RECORDS, 0)
    assert stack.services.alerts.states()[fatal.id] == "resolved"


def test_a_stream_that_accepts_nothing_until_retries_are_spent_leaves_all_records_in_dead_letters(
    stack, start, tell
):
    """The stream is probed by one batch at a time, until each has used up its retries."""
    load = Load(stack.audience(), 1000 if FULL else 300)
    batches, attempts = load.records // load.per_message, 3
    stack.firehose.faults.append(fail(error("InternalFailure", 500)))
    start(AUDIENCE_RETRY_MAX=str(attempts - 1), **PATIENT, **ONE_BY_ONE)
    load.send()
    eventually(lambda: load.status().dead == load.records, timeout=EXHAUSTED_SECONDS, every=0.1)
    assert (len(stack.firehose.calls), load.arrived()) == (batches * attempts, 0)
    occurrences = {alert.severity: alert.occurrences for alert in stack.services.alerts.all()}
    assert occurrences == {"fatal": batches, "warning": 1}

    stack.firehose.faults.clear()
    for letter in stack.services.dead_letters.all():
        stack.replay(letter)
    load.arrive()
    status = load.settle()
    tell(load, f"{batches * attempts} failing calls, {batches} dead letters, replayed")
    assert (status.counts.delivered, status.dead) == (load.records, 0)


def test_a_replay_that_is_interrupted_and_continued_repeats_nothing(stack, load, start, tell, tmp_path):
    load.per_message = RECORDS // LETTERS
    exhaust(stack, load, start, retries=1)
    stopping_point = StoppingPoint(tmp_path, sends=10)
    letters = left = len(stack.services.dead_letters.all())
    for end, says in ((signal.SIGINT, "give the command again to go on"), (signal.SIGKILL, "")):
        log, env = tmp_path / f"{end.name}.log", stack.environment | stopping_point.environment
        stopping_point.arm()
        with Process("replay", REPLAY_THAT_STOPS, log, env) as broken:
            process = stopping_point.wait()
            os.kill(process, end)
            os.kill(process, signal.SIGCONT)
            eventually(lambda process=broken: not process.is_running)
        before, left = left, len(stack.services.dead_letters.all())
        assert 0 < left < before
        assert says in broken.output()
    last = subprocess.run(
        installed(REPLAY),
        env=private_environment(stack.environment),
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert f"replayed {left:,} dead letter" in last.stdout
    load.arrive()
    status = load.settle()
    tell(load, f"{letters} dead letters, a replay interrupted, and killed")
    assert (status.counts.delivered, status.dead) == (RECORDS, 0)
