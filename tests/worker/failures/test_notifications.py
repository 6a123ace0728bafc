"""Alerts that reach people: at once or together, once, and again where sending fails."""

from dataclasses import dataclass, field

import pytest

from worker.errors import SettingError
from worker.failures.alert_types import AlertType, Failure, Severity
from worker.failures.alerts import COOLDOWN_SECONDS, CURRENT
from worker.failures.apprise_sender import apprise_sender
from worker.failures.notifications import GROUP_SECONDS, LEASE, Notifier

DENIED = Failure(AlertType.ACCESS_DENIED, "AccessDeniedException", "attach the policy")
GONE = Failure(AlertType.STREAM_NOT_FOUND, "ResourceNotFoundException", "there is no such stream")
THROTTLED = Failure(AlertType.INTERNAL_SERVER_ERROR, "SlowDown", "the stream is throttled")


@dataclass
class People:
    """They receive notifications, unless the network is away."""

    are_reachable: bool = True
    received: list = field(default_factory=list)

    def __call__(self, notification):
        if self.are_reachable:
            self.received.append(notification)
        return self.are_reachable


@pytest.fixture
def people():
    return People()


@pytest.fixture
def make_notifier(services, people, clock):
    def make():
        alerts = services.alerts
        return Notifier(
            services.redis,
            alerts=alerts.all,
            states=alerts.states,
            send=people,
            clock=clock,
            environment_name="staging",
        )

    return make


@pytest.fixture
def notifier(make_notifier):
    return make_notifier()


def test_a_fatal_alert_is_sent_at_once_with_what_an_operator_needs(services, notifier, people, stream):
    services.alerts.raise_alert(GONE, stream=stream, records=500)

    assert notifier.run() == 1
    (sent,) = people.received
    assert sent.title == "staging: audience-firehose, fatal: Stream Not Found of travel"
    assert "ResourceNotFoundException" in sent.body
    assert "500 records" in sent.body


def test_an_alert_is_sent_once_by_all_processes_together(services, make_notifier, people, stream):
    services.alerts.raise_alert(GONE, stream=stream)

    assert [make_notifier().run() for _ in range(3)] == [1, 0, 0]
    assert len(people.received) == 1


def test_while_one_process_sends_no_other_does(services, notifier, people, stream):
    services.alerts.raise_alert(GONE, stream=stream)
    services.redis.set(LEASE, "another process")

    assert notifier.run() == 0
    assert services.redis.get(LEASE) == "another process"


def test_warnings_wait_for_others_and_go_together(services, notifier, people, stream, clock):
    services.alerts.raise_alert(THROTTLED, stream=stream)
    assert notifier.run() == 0

    clock.advance(GROUP_SECONDS)
    services.alerts.raise_alert(THROTTLED, stream=stream._replace(name="other"))

    assert notifier.run() == 2
    assert "2 alerts" in people.received[0].title


def test_a_subject_is_notified_of_once_in_15_minutes(services, notifier, people, stream, clock):
    services.alerts.raise_alert(GONE, stream=stream)
    notifier.run()
    services.redis.delete("audience:alerts")
    services.alerts.raise_alert(GONE, stream=stream)
    assert notifier.run() == 0, "the same stream, a moment later"

    services.alerts.raise_alert(GONE, stream=stream._replace(name="other"))
    assert notifier.run() == 1, "another stream"


def test_an_alert_that_could_not_be_sent_is_sent_again_after_a_pause(
    services, notifier, people, stream, clock
):
    people.are_reachable = False
    services.alerts.raise_alert(GONE, stream=stream)
    assert notifier.run() == 0

    people.are_reachable = True
    assert notifier.run() == 0, "the pause is not over"
    clock.advance(10)
    assert notifier.run() == 1
    assert len(people.received) == 1


def test_old_and_acknowledged_alerts_are_not_sent(services, notifier, people, stream, clock):
    services.alerts.raise_alert(GONE, stream=stream)
    clock.advance(2 * 3_600)
    services.alerts.raise_alert(GONE, stream=stream._replace(name="other"))
    services.alerts.acknowledge_all()

    assert notifier.run() == 0


def test_many_alerts_make_one_message_that_is_short(services, notifier, people, stream):
    for number in range(200):
        services.alerts.raise_alert(GONE, stream=stream._replace(name=f"stream-{number}"))

    assert notifier.run() == 200
    (sent,) = people.received
    assert "180 more" in sent.body
    assert len(sent.body) < 4_000


def test_the_cooldown_is_as_long_as_the_contract_says():
    assert COOLDOWN_SECONDS == 15 * 60


def test_a_url_that_apprise_does_not_know_is_refused_without_repeating_it():
    with pytest.raises(SettingError, match="position 2") as refused:
        apprise_sender(["json://localhost", "nonsense-token"])

    assert "nonsense" not in str(refused.value)


def test_a_fatal_alert_does_not_wait_for_the_cooldown_of_a_warning_of_its_type(
    services, notifier, people, stream, clock
):
    services.alerts.raise_alert(DENIED, stream=stream, severity=Severity.WARNING)
    clock.advance(GROUP_SECONDS)
    assert notifier.run() == 1
    services.alerts.raise_alert(DENIED, stream=stream)
    assert notifier.run() == 1
    assert [sent.title.split(": ")[1] for sent in people.received] == [
        "audience-firehose, warning",
        "audience-firehose, fatal",
    ]


def test_an_alert_that_still_recurs_is_sent_however_long_nobody_could_be_reached(
    services, notifier, people, stream, clock
):
    people.are_reachable = False
    for _ in range(9):
        services.alerts.raise_alert(GONE, stream=stream)
        notifier.run()
        clock.advance(COOLDOWN_SECONDS - 1)
        services.redis.persist(f"{CURRENT}:{GONE.alert_type}:{stream.queue}")
    people.are_reachable = True
    services.alerts.raise_alert(GONE, stream=stream)
    assert notifier.run() == 1
