"""`make demo`: everything once, shown and checked.

Everything is done with the parts that a user has, and through what they are offered: the
commands, the queue, the dashboard's pages, and the objects that Firehose leaves in S3.
"""

import secrets
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import partial
from urllib.request import ProxyHandler, build_opener

from devstack.aws import LocalAws
from devstack.examples import (
    ADDITION,
    CONFIGURE_ANALYTICS,
    CONFIGURE_CRM,
    CONNECT,
    EXPECTED,
    EXPECTED_AFTER_REPLAY,
    LAPSED,
    MESSAGES,
    MESSAGES_IN_OUTAGE,
    REMOVAL,
    STREAMS,
    TRAVEL,
    WIN_BACK,
    DeliveryStream,
)
from devstack.people import Operator, enqueue
from devstack.stack import SHORT_RETRIES, Stack
from devstack.story import eventually, expect, show, step, tell
from worker.failures.alert_types import AlertType

POLL_INTERVAL_SECONDS = 0.5
COMMAND_INTERVAL_SECONDS = 2.0
"""A command takes half a second of a core, which workers need meanwhile."""
ATTEMPTS = int(SHORT_RETRIES["AUDIENCE_RETRY_MAX"]) + 1


def demo(stack: Stack) -> None:
    """Run the whole demo. Raises `Mismatch` where something is not as promised."""
    operator = Operator(stack.env)
    register(stack, operator)
    forward(stack)
    letter = exhaust_retries(stack, operator)
    check_dashboard(stack)
    heal_and_replay(stack, operator, letter)


def register(stack: Stack, operator: Operator) -> None:
    """Register two AWS identities, three delivery streams, five connections."""
    step("An operator ties audiences to delivery streams.")
    for stream in STREAMS:
        stack.aws.create_stream(*stream)
    operator.run(*CONFIGURE_ANALYTICS)
    operator.run(*CONFIGURE_CRM, stdin=secrets.token_urlsafe(30))
    for arguments in CONNECT:
        operator.run(*arguments)


def forward(stack: Stack) -> None:
    """Forward each kind of change to each stream that wants it."""
    step("Another app enqueues changes: added, removed, identity changed, audience deleted.")
    enqueue(stack.env["CELERY_BROKER_URL"], MESSAGES)
    step("What landed in each stream, read back from S3, a block a put:")
    show_landed(stack.aws, EXPECTED)
    pairs = [(put[i], put[i + 1]) for put in stack.aws.delivered(TRAVEL.name) for i in range(len(put) - 1)]
    expect("the removal and the addition of a changed identity were parted", (REMOVAL, ADDITION) in pairs)
    tell("   These are the promised records, and no others.")


def exhaust_retries(stack: Stack, operator: Operator) -> str:
    """Break a stream until its retries are spent. Returns the ID of the dead letter."""
    step(f"The stream {WIN_BACK.name} breaks: every put fails with a 500. More changes come in.")
    stack.aws.break_stream(WIN_BACK.name)
    enqueue(stack.env["CELERY_BROKER_URL"], MESSAGES_IN_OUTAGE)
    tell(f"   Here a batch is tried {ATTEMPTS} times within seconds; without the demo's settings, for hours.")
    step("The retries are spent. Operators see alerts, and the records wait as a dead letter.")
    question = partial(operator.list, "dead-letters")
    (letter,) = eventually("a dead letter", question, every=COMMAND_INTERVAL_SECONDS)
    operator.run("alerts")
    operator.run("dead-letters")
    check_alerts(operator, letter["id"])
    return str(letter["id"])


def check_alerts(operator: Operator, letter: str) -> None:
    """Check the alerts against the contract."""
    alerts = {alert["type"]: alert for alert in operator.list("alerts")}
    both = {AlertType.INTERNAL_SERVER_ERROR, AlertType.RETRY_LIMIT_EXCEEDED}
    expect(f"not one alert of each type, but {sorted(alerts)}", alerts.keys() == both)
    alert = alerts[AlertType.RETRY_LIMIT_EXCEEDED]
    promised = {
        "severity": "fatal",
        "audience_ids": [LAPSED["audience_id"]],
        "delivery_stream_name": WIN_BACK.name,
        "region": WIN_BACK.region,
        "attempts": ATTEMPTS,
        "records": len(EXPECTED_AFTER_REPLAY[WIN_BACK]),
        "dead_letter_id": letter,
    }
    shown = {name: alert.get(name) for name in promised}
    expect(f"the alert says {shown}, not {promised}", shown == promised)


def check_dashboard(stack: Stack) -> None:
    """Check that the dashboard shows the same alerts."""
    step(f"The dashboard shows them too: {stack.dashboard_url}/alerts")
    page = read_page(f"{stack.dashboard_url}/alerts")
    for alert_type in (AlertType.INTERNAL_SERVER_ERROR, AlertType.RETRY_LIMIT_EXCEEDED):
        expect(f"the System Alerts page does not show {alert_type}", alert_type in page)
        show(f"System Alerts has: {alert_type}")


def heal_and_replay(stack: Stack, operator: Operator, letter: str) -> None:
    """Repair the stream, replay, and check that the records arrive."""
    step(f"The stream {WIN_BACK.name} works again. The operator replays the dead letter.")
    stack.aws.repair_stream(WIN_BACK.name)
    operator.run("replay", letter)
    show_landed(stack.aws, EXPECTED_AFTER_REPLAY)
    expect("a dead letter is left", not operator.list("dead-letters"))
    step("How all streams stand now:")
    operator.run("status")


def show_landed(aws: LocalAws, expected: Mapping[DeliveryStream, Sequence[str]]) -> None:
    """Show the records of some streams once all have arrived, and check every byte of them."""
    for stream, records in expected.items():
        question = partial(arrived, aws, stream, len(records))
        puts = eventually(f"{len(records)} records in {stream.name}", question, every=POLL_INTERVAL_SECONDS)
        tell(f"\n   {stream.name} ({stream.region})")
        for put in puts:
            tell("")
            show("".join(put))
        check_records(stream, [record for put in puts for record in put], records)


def arrived(aws: LocalAws, stream: DeliveryStream, records: int) -> list[list[str]]:
    """Return the puts that arrived in a stream; none while there are fewer records."""
    puts = aws.delivered(stream.name)
    return puts if sum(map(len, puts)) >= records else []


def check_records(stream: DeliveryStream, landed: Sequence[str], promised: Sequence[str]) -> None:
    """Check the records, in whatever order the messages were delivered."""
    surplus, missing = Counter(landed) - Counter(promised), Counter(promised) - Counter(landed)
    difference = f"surplus:\n{''.join(surplus)}\nmissing:\n{''.join(missing)}"
    expect(f"{stream.name} received other records than promised; {difference}", not (surplus or missing))


def read_page(url: str) -> str:
    """Read a page of this machine, without a proxy."""
    with build_opener(ProxyHandler({})).open(url, timeout=10) as page:
        return str(page.read().decode())
