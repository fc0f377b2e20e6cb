"""A headless Chromium driven over its DevTools pipe, for tests of pages. Needs no library."""

import base64
import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


class Browser:
    """One page in one browser; errors and network requests of the page are kept.

    Attributes:
        faults: exceptions and console errors of the page.
        requests: addresses that it asked for, its own among them.
    """

    def __init__(self, profile: Path, width: int = 1200, height: int = 900, dark: bool = False):
        to_read, self._to_write = os.pipe()
        self._from_read, to_send = os.pipe()
        assert CHROMIUM is not None
        command = (
            f'exec "$0" --headless --no-sandbox --disable-gpu --remote-debugging-pipe --user-data-dir="$1" '
            f"--window-size={width},{height} about:blank 3<&{to_read} 4>&{to_send}"
        )
        self._process = subprocess.Popen(
            ["bash", "-c", command, CHROMIUM, str(profile)], pass_fds=(to_read, to_send), stderr=subprocess.DEVNULL
        )
        os.close(to_read)
        os.close(to_send)
        self._buffer = b""
        self._number = 0
        self._session: str | None = None
        self.faults: list[str] = []
        self.requests: list[str] = []
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Network", "Log"):
            self.call(f"{domain}.enable")
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", features=[scheme])

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        """One DevTools command and its result."""
        self._number += 1
        message = {"id": self._number, "method": method, "params": params}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._to_write, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._read()
            if answer.get("id") == self._number:
                assert "error" not in answer, answer
                return dict(answer["result"])

    def _read(self) -> dict[str, Any]:
        while b"\0" not in self._buffer:
            chunk = os.read(self._from_read, 1 << 20)
            assert chunk, "the browser has ended"
            self._buffer += chunk
        message, _, self._buffer = self._buffer.partition(b"\0")
        event = dict(json.loads(message))
        params = event.get("params", {})
        if event.get("method") == "Network.requestWillBeSent":
            self.requests.append(params["request"]["url"])
        elif event.get("method") == "Runtime.exceptionThrown":
            self.faults.append(json.dumps(params["exceptionDetails"]))
        elif event.get("method") == "Log.entryAdded" and params["entry"]["level"] == "error":
            self.faults.append(params["entry"]["text"])
        elif event.get("method") == "Page.javascriptDialogOpening":
            self.faults.append(f"dialog: {params['message']}")
        return event

    def open(self, place: Path | str, fragment: str = "") -> None:
        """Loads a file, or an address, and waits until it is there."""
        self.call("Page.navigate", url=(place.as_uri() if isinstance(place, Path) else place) + fragment)
        while self._read().get("method") != "Page.loadEventFired":
            pass

    def evaluate(self, expression: str) -> Any:
        """The value of an expression in the page."""
        return self.call("Runtime.evaluate", expression=expression, returnByValue=True)["result"].get("value")

    def wait(self, condition: str, seconds: float = 5.0) -> None:
        """Until a condition holds in the page."""
        self.call(
            "Runtime.evaluate",
            expression="new Promise(done => { const look = () => "
            f"{condition} ? done() : setTimeout(look, 20); look(); }})",
            awaitPromise=True,
            timeout=1000 * seconds,
        )
        assert self.evaluate(condition), condition

    def click(self, selector: str) -> None:
        """A real click of the mouse at the middle of the first element that fits."""
        self.evaluate(f"document.querySelector({json.dumps(selector)}).scrollIntoView({{block: 'center'}})")
        x, y = self.evaluate(
            f"(() => {{ const b = document.querySelector({json.dumps(selector)}).getBoundingClientRect();"
            "return [b.x + b.width / 2, b.y + b.height / 2]; })()"
        )
        for kind in ("mousePressed", "mouseReleased"):
            self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)

    def press(self, selector: str, key: str) -> None:
        """A real key press at the first element that fits."""
        self.evaluate(f"document.querySelector({json.dumps(selector)}).focus()")
        for kind in ("keyDown", "keyUp"):
            self.call("Input.dispatchKeyEvent", type=kind, key=key, code=key, windowsVirtualKeyCode=_KEYS[key])

    def screenshot(self, path: Path) -> None:
        """What is seen, as PNG."""
        path.write_bytes(base64.b64decode(self.call("Page.captureScreenshot", format="png")["data"]))

    def close(self) -> None:
        """Ends the browser."""
        self._process.terminate()
        self._process.wait(timeout=20)
        os.close(self._to_write)
        os.close(self._from_read)


_KEYS = {"ArrowDown": 40, "ArrowUp": 38}
