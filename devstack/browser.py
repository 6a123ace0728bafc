"""A headless Chromium, driven over its DevTools protocol: for tests of the pages, and their screenshots.

It needs no driver and no package: Tornado, which comes with Flower, speaks WebSocket.
"""

import asyncio
import json
import shutil
import tempfile
from base64 import b64decode
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

from tornado.websocket import WebSocketClientConnection, websocket_connect

from devstack.processes import LOOPBACK, Process

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
PORT_FILE = "DevToolsActivePort"
ANSWER_SECONDS = 60
MAX_ANSWER_BYTES = 64 * 2**20
CONFIRM = "window.confirm = function (question) { window.asked = question; return true; };"
"""Dialogs of a page are answered with yes."""
NAMELESS = """
Array.from(document.querySelectorAll("a[href], button, input:not([type=hidden]), select, textarea, summary"))
  .filter(element => element.checkVisibility() && !(
    element.textContent.trim() && !/^(SELECT|TEXTAREA)$/.test(element.tagName)
    || element.getAttribute("aria-label") || element.title || (element.labels && element.labels.length)))
  .map(element => element.outerHTML)
"""
"""Controls that a screen reader has no name for."""
REPEATED_IDS = """
Array.from(document.querySelectorAll("[id]")).map(element => element.id)
  .filter((id, place, all) => all.indexOf(id) !== place)
"""


def find_browser() -> str | None:
    """Find a Chromium on PATH; None where there is none."""
    return next(filter(None, map(shutil.which, BROWSERS)), None)


class Page:
    """A page of the browser. Every method waits for the browser's answer."""

    def __init__(self, loop: asyncio.AbstractEventLoop, socket: WebSocketClientConnection) -> None:
        self._loop = loop
        self._socket = socket
        self._numbers = count(1)
        self.call("Page.enable")
        self.call("Emulation.setFocusEmulationEnabled", enabled=True)
        self.call("Page.addScriptToEvaluateOnNewDocument", source=CONFIRM)

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Call a method of the protocol and return its result. Raises `RuntimeError`."""
        return self._loop.run_until_complete(
            asyncio.wait_for(self._call(next(self._numbers), method, parameters), ANSWER_SECONDS)
        )

    def evaluate(self, expression: str) -> Any:
        """Run JavaScript and return its value. Raises `RuntimeError` where it throws."""
        answer = self.call(
            "Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True, userGesture=True
        )
        if "exceptionDetails" in answer:
            raise RuntimeError(f"{expression}: {answer['exceptionDetails'].get('exception', {})}")
        return answer["result"].get("value")

    def holds(self, condition: str) -> bool:
        """Whether JavaScript is true. False while another page takes the place of this one."""
        try:
            return bool(self.evaluate(condition))
        except RuntimeError:
            return False

    def resize(self, width: int, height: int) -> None:
        """Make the page as wide and high as a screen, in CSS pixels."""
        self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=False,
        )

    def press(self, key: str) -> None:
        """Press `Tab` or `Enter`."""
        code, kind, text = {"Tab": (9, "rawKeyDown", ""), "Enter": (13, "keyDown", "\r")}[key]
        common = {"key": key, "code": key, "windowsVirtualKeyCode": code}
        self.call("Input.dispatchKeyEvent", type=kind, text=text, **common)
        self.call("Input.dispatchKeyEvent", type="keyUp", **common)

    def click(self, selector: str) -> None:
        """Click an element. Raises `RuntimeError` where there is none."""
        self.evaluate(f"document.querySelector({json.dumps(selector)}).click()")

    def text(self, selector: str) -> str:
        """The text of an element as it is shown, with single spaces; empty where there is none."""
        shown = self.evaluate(f"(document.querySelector({json.dumps(selector)}) || {{}}).innerText || ''")
        return " ".join(str(shown).split())

    def screenshot(self, path: Path, height: int) -> None:
        """Store what is seen, up to a height, as a PNG."""
        size = self.call("Page.getLayoutMetrics")["cssContentSize"]
        clip = {"x": 0, "y": 0, "width": self.evaluate("innerWidth"), "scale": 1}
        clip["height"] = min(height, size["height"])
        answer = self.call("Page.captureScreenshot", format="png", clip=clip, captureBeyondViewport=True)
        path.write_bytes(b64decode(answer["data"]))

    async def _call(self, number: int, method: str, parameters: dict[str, Any]) -> dict[str, Any]:
        await self._socket.write_message(json.dumps({"id": number, "method": method, "params": parameters}))
        while True:
            message = await self._socket.read_message()
            if message is None:
                raise RuntimeError(f"{method}: the browser has gone")
            answer = json.loads(message)
            # Others are events, which nobody here waits for.
            if answer.get("id") == number:
                if "error" in answer:
                    raise RuntimeError(f"{method}: {answer['error']}")
                result: dict[str, Any] = answer["result"]
                return result


@contextmanager
def browser(executable: str) -> Iterator[Page]:
    """A browser with an empty page, which ends with the context."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as directory:
        profile = Path(directory)
        options = (
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--no-first-run",
            "--hide-scrollbars",
            "--remote-debugging-port=0",
            f"--user-data-dir={profile}",
        )
        command = [executable, *options, "about:blank"]
        with Process("chromium", command, profile / "chromium.log", {}) as process:
            process.wait_until(lambda: _port(profile) is not None)
            yield from _page(_port(profile))


def _page(port: int | None) -> Iterator[Page]:
    request = Request(f"http://{LOOPBACK}:{port}/json/new?about:blank", method="PUT")
    with urlopen(request, timeout=ANSWER_SECONDS) as answer:
        url = json.load(answer)["webSocketDebuggerUrl"]
    loop = asyncio.new_event_loop()
    try:
        socket = loop.run_until_complete(_connect(url))
        yield Page(loop, socket)
        socket.close()
    finally:
        loop.close()


async def _connect(url: str) -> WebSocketClientConnection:
    return await websocket_connect(url, max_message_size=MAX_ANSWER_BYTES)


def _port(profile: Path) -> int | None:
    """The port that the browser has chosen; None until it has."""
    file = profile / PORT_FILE
    lines = file.read_text("utf-8").splitlines() if file.exists() else []
    return int(lines[0]) if len(lines) > 1 else None
