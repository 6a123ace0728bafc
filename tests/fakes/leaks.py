"""Finds identity values and secrets of the tests where nobody may see them."""

import re

PERSONAL = re.compile(r"secretive|fogg|phileas|balloon", re.IGNORECASE)
"""Every identity value and every secret of the end-to-end tests contains one of these."""
ACCESS_KEY_ID = re.compile(r"AKIASECRETIVE\w*")
"""The ID of an access key is a name, not a secret."""


def leaks(text: str) -> list[str]:
    """The parts of identity values and secrets that a text shows."""
    return [found.group() for found in PERSONAL.finditer(ACCESS_KEY_ID.sub("", text))]
