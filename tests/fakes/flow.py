"""The collaborators of flow control in a worker, without a broker and a pool."""

from types import SimpleNamespace


class StreamQueues:
    """Remembers which queues are paused."""

    def __init__(self):
        self.paused = set()

    def pause(self, queue):
        self.paused.add(queue)

    def resume(self, queue):
        self.paused.discard(queue)


class Timer:
    """Calls what it is given when a test says that the time has come."""

    def __init__(self):
        self.calls = []

    def call_after(self, seconds, function, arguments):
        self.calls.append((seconds, function, arguments))

    def fire(self):
        """Make all calls now."""
        calls, self.calls = self.calls, []
        for _, function, arguments in calls:
            function(*arguments)

    @property
    def waits(self):
        return [seconds for seconds, _, _ in self.calls]


class Channel:
    """A channel of a broker that can delay messages, while it has room."""

    def __init__(self):
        self.delayed = {}
        self.has_room = True

    def delay(self, message, until):
        if self.has_room:
            self.delayed[message.delivery_tag] = until
        return self.has_room


class Message:
    """A reserved message."""

    def __init__(self, queue, records=("a",), eta=None, task="audience.deliver.us-east-1", number=0):
        self.delivery_info = {"routing_key": queue}
        self.headers = {"task": task, "id": str(number), "eta": eta}
        self.payload = [[], {"records": records}, {}]
        self.channel = Channel()
        self.delivery_tag = "tag"
        self.is_requeued = False

    def requeue(self):
        self.is_requeued = True


def request(queue, number):
    return SimpleNamespace(
        delivery_info={"routing_key": queue},
        id=str(number),
        on_end=None,
        has_succeeded=True,
        worker_trouble=None,
    )
