"""The parts a user would have, on this machine: for the demo, the tests and the benchmark.

Every server listens on loopback, on a free port, and is stopped by who started it.
"""
