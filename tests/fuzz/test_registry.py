"""Anything at all in Redis, written past our code: what can be read stays in use, and nothing falls over."""

import json

from hostile import JSON, TEXT, deep, inputs, mutations
from hypothesis import given
from hypothesis import strategies as st
from kombu.exceptions import OperationalError

from worker.errors import OperatorError
from worker.failures.alert_types import AlertType, Failure
from worker.failures.alerts import ALERTS, DEAD_LETTERS, DEAD_MESSAGES, STATES
from worker.failures.dead_lettering import Undeliverable
from worker.failures.dead_letters import Message
from worker.flow.circuit_breakers import PAUSED_KEY
from worker.queues import Stream
from worker.state.counters import COUNTERS, RETRYING
from worker.state.registry import CONFIGURATIONS, CONNECTIONS, VERSION

STREAM = Stream("main", "us-east-1", "travel")
CONFIGURATION = {"name": "main", "send_remove_on_identity_change": True, "access_key_id": None}
CONNECTION = {
    "audience_id": 2,
    "configuration": "main",
    "delivery_stream_name": "other",
    "region": "us-east-1",
    "stream_quota": "1MiB/s+200requests/s",
}
BREAKER = {"reason": "operator", "since": "2026-01-01"}
ALERT = {
    "id": "1",
    "type": "Invalid Change",
    "severity": "warning",
    "raised_at": "2026-01-01",
    "connection_ids": [],
    "audience_ids": [],
    "delivery_stream_name": None,
    "region": None,
    "error_code": None,
    "message": "",
    "attempts": 1,
    "records": 1,
    "dead_letter_id": None,
}
LETTER = {
    "id": "one",
    "type": "Invalid Change",
    "raised_at": "2026-01-01",
    "error_code": "",
    "message": "",
    "attempts": 1,
    "records": 1,
    "queue": "audience.changes",
    "configuration": None,
    "region": None,
    "delivery_stream_name": None,
    "connection_ids": [],
    "audience_ids": [],
}
KEPT = {"task": "audience.forward", "queue": "audience.changes", "kwargs": {}, "args": []}

UTF8 = TEXT.map(lambda text: text.encode(errors="replace").decode())


def stored(valid):
    """Content of an entry: any text that Redis can hold."""
    return UTF8 | JSON.map(json.dumps) | mutations(valid).map(json.dumps)


def hashes(valid, keys=UTF8):
    return st.dictionaries(keys, stored(valid), max_size=3)


AUDIENCES = UTF8 | st.sampled_from(["2-ab12cd34", "3-", "-4-x", "9" * 5000 + "-x"])
QUEUES = UTF8 | st.sampled_from([STREAM.queue, "firehose.", "firehose.a.b", "firehose.main.us-east-1.a.b"])


def fill(redis, key, content):
    if content:
        redis.hset(key, mapping=content)


@inputs(400, each=2)
@given(configurations=hashes(CONFIGURATION), connections=hashes(CONNECTION, AUDIENCES), version=UTF8)
def test_a_corrupt_registry_keeps_its_valid_entries_and_loses_no_change(
    world, configurations, connections, version
):
    world.begin()
    configurations.pop("main", None)
    fill(world.services.redis, CONFIGURATIONS, configurations)
    fill(world.services.redis, CONNECTIONS, connections)
    world.services.redis.set(VERSION, version)
    world.services.registry._snapshot = None
    snapshot = world.services.registry.snapshot()
    assert "main" in snapshot.configurations
    assert STREAM in snapshot.streams
    world.receive("audience.forward", [], {"changes": [added(1), added(2)]})
    users = [json.loads(line)["UserIdentities"] for line in world.firehose.taken]
    assert (users.count({"CustomerId": "of 1"}), 1 in snapshot.corrupt) in {(1, False), (0, True)} or (
        len(snapshot.routes[1]) > 1
    )
    corrupt = [
        letter for letter in world.services.dead_letters.all() if letter.error_code == "UnreadableConnection"
    ]
    assert bool(corrupt) == bool(snapshot.corrupt & {1, 2})


def added(audience_id):
    return {
        "type": "member_added",
        "audience_id": audience_id,
        "audience_external_name": "Name",
        "user_identities": {"CustomerId": f"of {audience_id}"},
    }


def no_broker(queues):
    list(queues)
    raise OperationalError


@inputs(800, each=2)
@given(
    breakers=hashes(BREAKER, QUEUES),
    alerts=st.lists(stored(ALERT), max_size=3),
    states=st.dictionaries(UTF8, UTF8, max_size=2),
    letters=hashes(LETTER),
    messages=hashes(KEPT),
    counters=st.dictionaries(
        st.sampled_from(["accepted", "delivered", "skipped:anonymous"]), UTF8, max_size=3
    ),
    other=QUEUES,
)
def test_listings_show_the_entries_that_can_be_read(  # noqa: PLR0917
    services, redis, breakers, alerts, states, letters, messages, counters, other
):
    redis.flushall()
    services.registry._snapshot = None
    services.registry.configure(name="main")
    services.registry.connect(audience_id=1, configuration="main", delivery_stream_name="travel")
    services.alerts.raise_alert(Failure(AlertType.INVALID_CHANGE, "Known", "known"))
    kept = Message("audience.forward", "audience.changes", {})
    failure = Failure(AlertType.INVALID_CHANGE, "", "")
    services.dead_lettering.dead_letter(Undeliverable("known", kept, failure, records=1))
    letters.pop("known", None)
    messages.pop("known", None)
    fill(redis, PAUSED_KEY, breakers)
    fill(redis, STATES, states)
    fill(redis, DEAD_LETTERS, letters)
    fill(redis, DEAD_MESSAGES, messages)
    fill(redis, f"{COUNTERS}:{STREAM.queue}", counters)
    fill(redis, f"{RETRYING}:{STREAM.queue}", counters)
    fill(redis, f"{COUNTERS}:{other}", counters)
    for alert in alerts:
        redis.lpush(ALERTS, alert)

    assert "Known" in [alert.error_code for alert in services.alerts.all()]
    assert "known" in [letter.id for letter in services.dead_letters.all()]
    assert STREAM in [
        row.stream for row in services.status.read(lambda queues: dict.fromkeys(queues, 0)).rows
    ]
    assert not services.status.read(no_broker).broker_answers
    assert (
        (STREAM.queue in services.circuit_breakers.blocking())
        == (STREAM.queue in breakers)
        == bool(services.circuit_breakers.get(STREAM))
    )
    services.alerts.states()
    services.alerts.acknowledge_all()
    services.alerts.newer_than("1")
    for letter in services.dead_letters.all():
        try:
            services.dead_letters.message(letter)
        except OperatorError as error:
            assert letter.id != "known", error


def test_an_entry_nested_without_end_is_corrupt_like_any_other(services, redis):
    nested = json.dumps(deep(1000)).replace("1", "1" * 10)
    for key in (CONFIGURATIONS, CONNECTIONS, PAUSED_KEY, DEAD_LETTERS):
        redis.hset(key, "firehose.a.b.c", nested)
    redis.lpush(ALERTS, nested)
    services.status.read(lambda queues: {})
    assert services.alerts.all() == []
