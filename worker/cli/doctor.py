"""doctor."""

from collections.abc import Iterator
from operator import itemgetter
from typing import Any

import click
from kombu.exceptions import OperationalError
from redis.exceptions import RedisError

from worker.broker.checks import check_broker
from worker.cli.application import application
from worker.cli.explanations import address_of
from worker.cli.output import Columns, Listing, json_option, present
from worker.services import Services
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
    addresses = {
        BROKER: address_of(app.services.settings.broker_url),
        STATE: address_of(app.services.settings.redis_url),
    }
    findings = [
        *((BROKER, finding) for finding in _broker(app)),
        *((STATE, finding) for finding in _state(app.services)),
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


def _state(services: Services) -> Iterator[Finding]:
    try:
        yield from check_redis(services.redis, "audience:", services.settings.redis_wait_replicas)
    except (RedisError, OSError) as error:
        yield unreachable(error)
