"""Firehose refuses records one by one. Only those are sent again."""

import json

from chaos import PATIENT, RECORDS
from load import Load

from devstack.firehose import refuse_share

SHARE = 0.3


def test_records_refused_at_random_are_delivered_once_in_the_end(stack, load, start, tell):
    stack.firehose.faults.append(refuse_share(SHARE, seed=1))
    load.per_message = 500
    start(**PATIENT)
    load.send()
    load.arrive()
    status = load.settle()
    assert status.counts.refused > SHARE * RECORDS
    tell(load, f"{status.counts.refused} refusals")
    assert (status.counts.enqueued, status.counts.delivered, status.dead) == (RECORDS, RECORDS, 0)


def test_an_identity_change_whose_removal_is_refused_is_sent_again_as_a_pair(stack, start):
    """Removals are refused at random. After the last one of a customer comes their addition."""
    audience = stack.audience()
    pairs = Load(audience, RECORDS // 20)
    changes = [
        audience.change(
            "identity_changed",
            previous_user_identities={"CustomerId": f"customer-{number:06}", "Other": "before"},
            user_identities={"CustomerId": f"customer-{number:06}", "Other": "after"},
        )
        for number in range(pairs.records)
    ]
    stack.firehose.faults.append(refuse_share(SHARE, seed=2))
    start(**PATIENT)
    for number in range(0, len(changes), 200):
        stack.send(*changes[number : number + 200])
    pairs.sent = pairs.records
    pairs.arrive()
    pairs.settle()
    last_words = {}
    for line in audience.received():
        record = json.loads(line)
        last_words.setdefault(record["UserIdentities"]["CustomerId"], []).append(record["IsMember"])
    assert len(last_words) == pairs.records
    assert all(words[-1] for words in last_words.values())
    assert all(words.count(False) == 1 for words in last_words.values()), "a removal was repeated"
