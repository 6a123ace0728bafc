"""Throughput in figures: what a change costs the workers and Redis, beside plain Celery and bare boto3."""

from benchmarks.command import Command
from benchmarks.throughput import latency, memory, over_rabbitmq, peers, slow, streams, waiting

COMMAND = Command(
    "throughput",
    "What a change costs, with the floor and the goal of each figure.",
    [
        scenario
        for module in (peers, waiting, latency, streams, slow, memory, over_rabbitmq)
        for scenario in module.SCENARIOS
    ],
)
