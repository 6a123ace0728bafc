"""The checks of a RabbitMQ by `audience-firehose doctor`."""

import pytest
from kombu import Connection

from devstack.processes import rabbitmqctl
from worker.broker.rabbitmq.checks import check_rabbitmq, check_version
from worker.broker.rabbitmq.queues import RENEWED_AFTER_DELIVERIES
from worker.store.server_checks import Check, Outcome


def findings(url):
    with Connection(url) as connection:
        connection.connect()
        return {finding.check: finding for finding in check_rabbitmq(connection)}


@pytest.fixture
def quorum_host(fresh_hosts):
    """The name of a virtual host whose queues are quorum queues by default."""
    return next(fresh_hosts["quorum"])


@pytest.fixture
def quorum_url(rabbitmq_url, quorum_host):
    return f"{rabbitmq_url}/{quorum_host}"


def test_nothing_is_wrong_with_a_server_as_it_is_installed(idle_rabbitmq_url):
    found = findings(idle_rabbitmq_url)
    assert {finding.outcome for finding in found.values()} == {Outcome.OK}
    assert found.keys() == {Check.VERSION, Check.QUEUE_TYPE, Check.DELIVERY_LIMIT}


def test_a_virtual_host_whose_queues_are_quorum_queues_is_well(quorum_url):
    found = findings(quorum_url)[Check.QUEUE_TYPE]
    assert (found.outcome, found.message) == (Outcome.OK, "quorum")


@pytest.mark.parametrize(
    ("limit", "outcome"),
    [(2, Outcome.FAILED), (RENEWED_AFTER_DELIVERIES, Outcome.FAILED), (20, Outcome.OK), (200, Outcome.OK)],
)
def test_a_delivery_limit_that_messages_would_meet_is_a_failure(
    limit, outcome, rabbitmq, quorum_host, quorum_url
):
    definition = f'{{"delivery-limit":{limit}}}'
    policy = ("set_policy", "-p", quorum_host, "limit", "^(audience|firehose)\\.", definition)
    rabbitmqctl(rabbitmq.environment, *policy)
    found = findings(quorum_url)[Check.DELIVERY_LIMIT]
    assert found.outcome == outcome
    assert (str(limit) in found.message) == (limit < 200)


def test_a_user_without_permissions_is_a_failure(rabbitmq, quorum_host, quorum_url):
    rabbitmqctl(rabbitmq.environment, "set_permissions", "-p", quorum_host, "guest", "^none$", ".*", ".*")
    assert findings(quorum_url)[Check.PERMISSIONS].outcome == Outcome.FAILED


@pytest.mark.parametrize("version", ["3.9.13", "", "2"])
def test_a_version_before_3_10_is_a_failure(version):
    assert check_version(version).outcome == Outcome.FAILED


@pytest.mark.parametrize("version", ["3.10.8", "4.0.2"])
def test_a_version_from_3_10_on_is_well(version):
    assert check_version(version).outcome == Outcome.OK
