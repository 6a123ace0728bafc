"""A client of the local Firehose while it only counts: `python -m devstack.firehose PORT`."""

import base64
import json
import urllib.request
from typing import Any, NamedTuple

from devstack import processes

TIMEOUT_SECONDS = 60.0
"""Seconds for an answer. The calls of a long run are a long answer, on a busy machine."""

Conduct = dict[str, Any]
"""How a stream behaves: the fields of `Conduct` in the program, with their defaults left out."""


class Call(NamedTuple):
    """A call that the Firehose has answered."""

    moment: float
    """On this machine's monotonic clock."""
    stream: str
    records: int
    bytes: int
    """Before base64."""
    accepted: int
    """Records."""
    kept: list[str]

    def lines(self) -> list[dict[str, Any]]:
        """The records themselves, where the stream's conduct has them kept."""
        return [json.loads(base64.b64decode(text)) for text in self.kept]


class Firehose:
    """The running server, asked over HTTP."""

    def __init__(self, port: int) -> None:
        self.url = f"http://{processes.LOOPBACK}:{port}"

    def counted(self) -> int:
        """Records taken since it was started."""
        return int(self._ask("GET", "/"))

    def calls(self) -> list[Call]:
        """The calls since this was last asked."""
        return [Call(*call) for call in json.loads(self._ask("GET", "/calls"))]

    def behave(self, conducts: dict[str, Conduct]) -> None:
        """From now on the streams behave so, and those that are not named take everything at once."""
        self._ask("PUT", "/", json.dumps(conducts).encode())

    def _ask(self, method: str, path: str, body: bytes | None = None) -> bytes:
        request = urllib.request.Request(self.url + path, data=body, method=method)
        with urllib.request.urlopen(request, timeout=TIMEOUT_SECONDS) as reply:
            answer: bytes = reply.read()
        return answer
