"""The identity of an installation in a broker."""

from celery import Celery

from worker.broker.installation import BROKER_INSTALLATION, BrokerIdentity
from worker.broker.redis.transport import register_redis_transport


def identity_in(url):
    register_redis_transport()
    return BrokerIdentity(Celery("some-app", broker=url, set_as_current=False))


def test_redis_holds_the_first_identity_that_is_written(real_redis, real_redis_url):
    identity = identity_in(real_redis_url)
    assert identity.read() is None
    identity.write("first")
    identity.write("second")
    assert identity.read() == real_redis.get(BROKER_INSTALLATION) == "first"


def test_another_broker_holds_none():
    identity = identity_in("memory://")
    identity.write("first")
    assert identity.read() is None
