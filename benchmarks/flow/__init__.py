"""Flow control in figures: what one stream's trouble costs the others, and what many streams cost."""

from benchmarks.command import Command
from benchmarks.flow import circuit_breakers, fairness, isolation, memory, quota, scale, streams

COMMAND = Command(
    "flow",
    "One figure or more of flow control for each scenario, and whether its target is met.",
    [
        scenario
        for module in (isolation, memory, circuit_breakers, quota, fairness, streams, scale)
        for scenario in module.SCENARIOS
    ],
)
