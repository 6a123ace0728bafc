"""A stack whose state is a database of the master of sentinels, and its broker by default."""

from dataclasses import dataclass

from stack import Stack

from worker.store.sentinel import kombu_url

CALLER_TIMEOUTS = {"socket_timeout": 5, "socket_connect_timeout": 5}


@dataclass
class Sentineled(Stack):
    """Its `redis_url` is a `sentinel://` URL without a database."""

    query: str = ""
    """Parameters of the URL."""

    def __post_init__(self) -> None:
        super().__post_init__()
        # The caller is Celery as it comes, with the options of docs/high-availability.md.
        self.caller.conf.broker_url, options = kombu_url(self.environment["CELERY_BROKER_URL"])
        self.caller.conf.broker_transport_options = {**options, **CALLER_TIMEOUTS}

    @property
    def environment(self) -> dict[str, str]:
        broker, state = (f"{self.redis_url}/{database}{self.query}" for database in self.databases)
        urls = {"CELERY_BROKER_URL": self.broker_url or broker, "AUDIENCE_REDIS_URL": state}
        return super().environment | urls
