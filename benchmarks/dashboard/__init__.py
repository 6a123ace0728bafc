"""The dashboard in figures: what a view of a page costs."""

from benchmarks.command import Command
from benchmarks.dashboard import pages

COMMAND = Command("dashboard", "What a view of each page costs the dashboard.", pages.SCENARIOS)
