"""An installation with many streams, alerts and dead letters, as the dashboard finds it."""

import json
import time
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from redis import Redis

from schemas.settings import Connection
from worker.config import read_settings
from worker.failures.alert_types import AlertType, Failure
from worker.failures.alerts import ALERTS, DEAD_LETTERS, STATES, Alert, AlertState
from worker.failures.dead_letters import Message, make_letter
from worker.queues import FORWARD, Stream
from worker.services import Services, connect
from worker.state.registry import CONNECTIONS, VERSION, connection_id

CONFIGURATION = "main"
ACTIVE = 10
"""One stream in so many delivers between two views."""
PAUSED = 50
"""One stream in so many is paused."""
ALERT_SPAN_SECONDS = 12 * 3_600
MINUTES = 60


class Installation:
    """The state and the broker of an installation, filled through pipelines."""

    def __init__(self, env: Mapping[str, str], streams: int) -> None:
        self._services: Services = connect(read_settings(env))
        self._broker: Any = Redis.from_url(env["CELERY_BROKER_URL"])
        self._streams = [
            Stream(CONFIGURATION, "us-east-1", f"stream-{number:05}") for number in range(streams)
        ]
        connections = [
            Connection(number, CONFIGURATION, found.name) for number, found in enumerate(self._streams)
        ]
        self._connections = {connection_id(found): found for found in connections}
        self._connection_ids = dict(zip(self._streams, self._connections, strict=True))
        self._moves = 0

    def fill(self, *, alerts: int, letters: int) -> None:
        """Make streams with an hour of deliveries, alerts of twelve hours, and dead letters."""
        self._services.registry.configure(name=CONFIGURATION)
        with self._services.redis.pipeline(transaction=False) as pipe:
            self._connect(pipe)
            self._raise_alerts(pipe, alerts)
            self._dead_letter(pipe, letters)
            for number, stream in enumerate(self._streams):
                self._services.counters.enqueued(stream, 100_000, pipe)
                self._services.counters.delivered(stream, accepted=90_000, refused=number, pipe=pipe)
            pipe.execute()
        self._deliver_for_an_hour()
        for stream in self._streams[::PAUSED]:
            self._services.circuit_breakers.pause(stream, AlertType.ACCESS_DENIED)
        self._enqueue()

    def live(self) -> None:
        """Let one stream in `ACTIVE` deliver, and raise an alert."""
        self._moves += 1
        services, start = self._services, self._moves % ACTIVE
        with services.redis.pipeline(transaction=False) as pipe:
            for stream in self._streams[start::ACTIVE]:
                services.counters.delivered(stream, accepted=500, pipe=pipe)
                services.history.record(stream, pipe, delivered=500, size=100_000, seconds=0.2)
            pipe.execute()
        stream = self._streams[self._moves % len(self._streams)]
        failure = Failure(AlertType.INTERNAL_SERVER_ERROR, "ServiceUnavailableException", "throttled")
        services.alerts.raise_alert(failure, stream=stream, connection_ids=[self._connection_ids[stream]])

    def _connect(self, pipe: Any) -> None:
        for identifier, connection in self._connections.items():
            pipe.hset(CONNECTIONS, identifier, json.dumps(asdict(connection)))
        pipe.incr(VERSION)

    def _raise_alerts(self, pipe: Any, alerts: int) -> None:
        for number in reversed(range(alerts)):
            alert = self._alert(number, alerts)
            pipe.lpush(ALERTS, json.dumps(asdict(alert)))
            if number % 2:
                pipe.hset(STATES, alert.id, AlertState.ACKNOWLEDGED.value)

    def _alert(self, number: int, alerts: int) -> Alert:
        kinds = (AlertType.INTERNAL_SERVER_ERROR, AlertType.RETRY_LIMIT_EXCEEDED, AlertType.ACCESS_DENIED)
        alert_type = kinds[number % len(kinds)]
        stream = self._streams[number % len(self._streams)]
        at = self._services.clock() - ALERT_SPAN_SECONDS * number / alerts
        moment = time.strftime("%Y-%m-%dT%H:%M:%S.000+00:00", time.gmtime(at))
        return Alert(
            id=f"{number:012x}",
            type=alert_type,
            severity=alert_type.severity,
            raised_at=moment,
            connection_ids=[self._connection_ids[stream]],
            audience_ids=[number % len(self._streams)],
            delivery_stream_name=stream.name,
            region=stream.region,
            error_code="ServiceUnavailableException",
            message="Firehose has throttled or failed 25 batches of this stream in a row",
            attempts=25,
            records=500,
            dead_letter_id=f"{number:x}" if number % len(kinds) else None,
            occurrences=1 + number % 7,
            last_raised_at=moment,
            aws_message="Slow down.",
            request_id="d2ab5f0c-8a1f-4b6c-9d3e-1f60a7b2c9e4",
        )

    def _dead_letter(self, pipe: Any, letters: int) -> None:
        failure = Failure(AlertType.RETRY_LIMIT_EXCEEDED, "ServiceUnavailableException", "throttled")
        for number in range(letters):
            stream = self._streams[number % len(self._streams)]
            letter = make_letter(
                f"{number:x}",
                Message(FORWARD, stream.queue, {}),
                failure,
                self._services.clock() - number,
                records=500,
                stream=stream,
                connection_ids=[self._connection_ids[stream]],
            )
            pipe.hset(DEAD_LETTERS, letter.id, letter.entry)

    def _deliver_for_an_hour(self) -> None:
        services, now = self._services, self._services.clock()
        history = services.history
        for minute in range(MINUTES):
            history._clock = lambda at=now - MINUTES * (MINUTES - 1 - minute): at  # type: ignore[misc]
            with services.redis.pipeline(transaction=False) as pipe:
                for stream in self._streams:
                    history.record(stream, pipe, delivered=500 + minute, size=100_000, seconds=0.2)
                pipe.execute()
        history._clock = services.clock

    def _enqueue(self) -> None:
        with self._broker.pipeline(transaction=False) as pipe:
            for number, stream in enumerate(self._streams):
                for _ in range(number % 3):
                    pipe.lpush(stream.queue, f'{{"headers": {{"enqueued_at": {self._services.clock()}}}}}')
            pipe.execute()
