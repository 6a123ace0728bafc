"""The README's example of a calling app, with the broker of a running stack in it."""

import re

from devstack.processes import ROOT

DEFAULT_BROKER_URL = "redis://localhost:6379/0"


def readme_caller(broker_url: str) -> str:
    """The Python example of the README. Raises `ValueError` where the README has none."""
    found = re.search(
        r"^```python\n(.*?)^```", (ROOT / "README.md").read_text("utf-8"), re.MULTILINE | re.DOTALL
    )
    if not found or DEFAULT_BROKER_URL not in found[1]:
        raise ValueError("the README has no example of a caller")
    return found[1].replace(DEFAULT_BROKER_URL, broker_url)
