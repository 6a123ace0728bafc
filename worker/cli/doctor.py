"""doctor."""

from collections.abc import Iterator
from operator import itemgetter
from typing import Any

import click
from kombu.exceptions import OperationalError
from redis import Redis
from redis.exceptions import RedisError

from worker.broker.checks import check_broker
from worker.cli.application import application
from worker.cli.explanations import address_of
from worker.cli.output import Columns, Listing, json_option, present
from worker.store.server_checks import Finding, Outcome, check_redis, unreachable

COLUMNS: Columns = {
    "SERVER": itemgetter("server"),
    "CHECK": itemgetter("check"),
    "RESULT": itemgetter("result"),
    "MESSAGE": itemgetter("message"),
}
BROKER, STATE = "broker", "state"
VARIABLES = {BROKER: "CELERY_BROKER_URL", STATE: "AUDIENCE_REDIS_URL"}
FAILURE = 1


@click.command()
@json_option
@click.pass_context
def doctor(ctx: click.Context, as_json: bool) -> None:
    """Check the servers of CELERY_BROKER_URL and AUDIENCE_REDIS_URL, and say what to change.

    The exit status is 1 where a check failed, and 0 where there are only warnings.
    """
    app = application()
    services = app.services
    addresses = {
        BROKER: address_of(services.settings.broker_url),
        STATE: address_of(services.settings.redis_url),
    }
    findings = [
        *((BROKER, finding) for finding in _broker(app)),
        *((STATE, finding) for finding in _state(services.redis, services.settings.redis_wait_replicas)),
    ]
    rows = [
        {
            "id": f"{server}:{finding.check}",
            "server": server,
            "address": addresses[server],
            "check": finding.check,
            "result": finding.outcome,
            "message": finding.message,
        }
        for server, finding in findings
    ]
    notes = [f"{server}: {addresses[server]}, of {variable}" for server, variable in VARIABLES.items()]
    present(Listing(rows, COLUMNS, "nothing to check", notes=notes), as_json=as_json)
    if any(finding.outcome == Outcome.FAILED for _, finding in findings):
        ctx.exit(FAILURE)


def _broker(app: Any) -> Iterator[Finding]:
    try:
        yield from check_broker(app, app.services.settings.redis_wait_replicas)
    except (OperationalError, RedisError, OSError) as error:
        yield unreachable(error)


def _state(redis: Redis, wait_replicas: int) -> Iterator[Finding]:
    try:
        yield from check_redis(redis, "audience:", wait_replicas)
    except (RedisError, OSError) as error:
        yield unreachable(error)
