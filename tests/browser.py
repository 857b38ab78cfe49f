"""A headless Chromium, driven over the DevTools protocol through a pair of pipes."""

from __future__ import annotations

import base64
import json
import os
import select
import shutil
import subprocess
import tempfile
import time
from pathlib import Path

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
OPTIONS = (
    "--headless",
    "--no-sandbox",
    "--use-gl=angle",
    "--use-angle=swiftshader",  # WebGL without a graphics card
    "--enable-unsafe-swiftshader",
    "--disable-background-networking",
    "--no-first-run",
    "--hide-scrollbars",
    "--disable-dev-shm-usage",
    "--remote-debugging-pipe",
)


def find_browser() -> str:
    """Path of a Chromium; skips the test if there is none."""
    for name in NAMES:
        path = shutil.which(name)
        if path:
            return path
    pytest.skip(f"no browser: none of {', '.join(NAMES)} is installed")
    raise AssertionError


class Browser:
    """One page; errors and warnings of its console are in ``complaints``."""

    def __init__(self, width: int = 1280, height: int = 800, limit: float = 60) -> None:
        path = find_browser()
        self.profile = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
        to_read, self._write = os.pipe()
        self._read, to_write = os.pipe()
        # Chromium reads commands from descriptor 3 and answers on descriptor 4.
        script = f'exec "$@" 3<&{to_read} 4>&{to_write} 2>/dev/null'
        self.process = subprocess.Popen(
            ["bash", "-c", script, "bash", path, *OPTIONS, f"--user-data-dir={self.profile.name}"],
            pass_fds=(to_read, to_write),
        )
        os.close(to_read)
        os.close(to_write)
        self.limit, self._number, self._buffer, self._session = limit, 0, b"", None
        self.complaints: list[str] = []
        self.requests: list[str] = []
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        attached = self.call("Target.attachToTarget", targetId=target, flatten=True)
        self._session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")
        self.resize(width, height)

    def __enter__(self) -> Browser:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self._read)
        os.close(self._write)
        self.profile.cleanup()

    def call(self, method: str, **parameters: object) -> dict:
        self._number += 1
        message = {"id": self._number, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._write, json.dumps(message).encode() + b"\0")
        end = time.monotonic() + self.limit
        while True:
            answer = self._next(end)
            if answer.get("id") == self._number:
                assert "error" not in answer, answer["error"]
                return answer["result"]

    def _next(self, end: float) -> dict:
        while b"\0" not in self._buffer:
            left = end - time.monotonic()
            assert left > 0, "the browser does not answer"
            if select.select([self._read], [], [], left)[0]:
                piece = os.read(self._read, 1 << 20)
                assert piece, "the browser has ended"
                self._buffer += piece
        text, self._buffer = self._buffer.split(b"\0", 1)
        event = json.loads(text)
        what, facts = event.get("method"), event.get("params", {})
        if what == "Runtime.exceptionThrown":
            detail = facts["exceptionDetails"]
            self.complaints.append(str(detail.get("exception", {}).get("description", detail)))
        elif what == "Runtime.consoleAPICalled" and facts["type"] in ("error", "assert"):
            self.complaints.append(str(facts["args"]))
        elif what == "Log.entryAdded" and facts["entry"]["level"] == "error":
            self.complaints.append(f"{facts['entry']['text']} {facts['entry'].get('url', '')}")
        elif what == "Network.requestWillBeSent":
            self.requests.append(facts["request"]["url"])
        return event

    def resize(self, width: int, height: int) -> None:
        self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=False,
        )

    def go(self, url: str) -> None:
        self.call("Page.navigate", url=url)

    def run(self, script: str) -> object:
        """Value of a JavaScript expression; promises are awaited."""
        answer = self.call(
            "Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True
        )
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def wait(self, script: str, seconds: float = 30) -> object:
        """Wait until a JavaScript expression is truthy."""
        end = time.monotonic() + seconds
        while True:
            found = self._tried(
                f"(() => {{ try {{ return {script} }} catch {{ return null }} }})()"
            )
            if found:
                return found
            assert time.monotonic() < end, (script, self.complaints)
            time.sleep(0.05)

    def _tried(self, script: str) -> object:
        """Value of an expression; None if the page is left for another one meanwhile."""
        try:
            return self.run(script)
        except AssertionError as error:
            if "navigated" in str(error):
                return None
            raise

    def click(self, x: float, y: float) -> None:
        for kind in ("mousePressed", "mouseReleased"):
            self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)

    def move(self, x: float, y: float) -> None:
        self.call("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y)

    def press(self, key: str, code: int) -> None:
        for kind in ("keyDown", "keyUp"):
            self.call(
                "Input.dispatchKeyEvent", type=kind, key=key, code=key, windowsVirtualKeyCode=code
            )

    def theme(self, name: str) -> None:
        features = [{"name": "prefers-color-scheme", "value": name}]
        self.call("Emulation.setEmulatedMedia", features=features)

    def picture(self, path: Path | None = None) -> bytes:
        png = base64.b64decode(self.call("Page.captureScreenshot", format="png")["data"])
        if path:
            path.write_bytes(png)
        return png
