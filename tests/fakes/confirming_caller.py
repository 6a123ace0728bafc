"""The lines by which a caller waits for replicas, as docs/high-availability.md has them."""

import re

from devstack.processes import ROOT

DOCUMENT = (ROOT / "docs/high-availability.md").read_text("utf-8")
BLOCKS = re.findall(r"^```python\n(.+?)^```$", DOCUMENT, re.MULTILINE | re.DOTALL)


def confirm_messages(timeout_milliseconds: int = 2000) -> None:
    """Run the lines: from now on this process's messages of changes wait for a replica."""
    (lines,) = (block for block in BLOCKS if "put_confirmed" in block)
    exec(lines.replace("2000", str(timeout_milliseconds)), {})
