"""In full, the tests beside this one try 20,000 inputs."""

import importlib.util
from pathlib import Path

INPUTS = 20_000


def inputs_in_full():
    for path in Path(__file__).parent.glob("test_*.py"):
        if path.name != Path(__file__).name:
            spec = importlib.util.spec_from_file_location(f"fuzz_{path.stem}", path)
            module = importlib.util.module_from_spec(spec)
            spec.loader.exec_module(module)
            yield from (getattr(found, "inputs_in_full", 0) for found in vars(module).values())


def test_the_fuzz_tests_make_as_many_inputs_as_promised():
    assert sum(inputs_in_full()) >= INPUTS
