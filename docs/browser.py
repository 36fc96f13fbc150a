"""A headless Chromium, driven through chromedriver's own protocol (WebDriver): for the browser test
and the screenshots.
"""

from __future__ import annotations

import base64
import json
import shutil
import socket
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path
from types import TracebackType
from typing import Any

TIMEOUT_S = 60.0


def chromium_missing() -> str:
    """Why no browser can be driven here; "" where one can."""
    missing = [name for name in ("chromium", "chromedriver") if shutil.which(name) is None]
    return (
        f"{' and '.join(missing)} not installed (Debian: apt-get install chromium chromium-driver)"
        if missing
        else ""
    )


class Browser:
    """One page; use as a context. Waits for what it looks for, up to TIMEOUT_S."""

    def __init__(self, width: int = 1280, height: int = 800, *, dark: bool = False) -> None:
        self.size, self.dark = (width, height), dark

    def __enter__(self) -> Browser:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        self._profile = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
        self._driver = subprocess.Popen(
            ["chromedriver", f"--port={port}"],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        self._url = f"http://127.0.0.1:{port}"
        flags = [
            "--headless=new",
            "--no-sandbox",
            "--disable-gpu",
            "--hide-scrollbars",
            "--disable-dev-shm-usage",
        ]
        flags += [
            f"--window-size={self.size[0]},{self.size[1]}",
            f"--user-data-dir={self._profile.name}",
        ]
        flags += ["--blink-settings=preferredColorScheme=0"] if self.dark else []
        options = {"args": flags, "binary": shutil.which("chromium")}
        wanted = {
            "capabilities": {
                "alwaysMatch": {"browserName": "chrome", "goog:chromeOptions": options}
            }
        }
        self._url += f"/session/{self._answer('POST', '/session', wanted, TIMEOUT_S)['sessionId']}"
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._answer("DELETE", "", None)
        self._driver.terminate()
        self._driver.wait(10)
        self._profile.cleanup()

    def open(self, url: str) -> None:
        """Go to a page; one that differs after the # only is loaded anew as well."""
        self._answer("POST", "/url", {"url": "about:blank"})
        self._answer("POST", "/url", {"url": url})

    def run(self, script: str) -> Any:
        """What a script of the page returns."""
        return self._answer("POST", "/execute/sync", {"script": script, "args": []})

    def wait_for(self, script: str, what: str) -> Any:
        """Wait until the script returns something true, and return that; AssertionError after
        TIMEOUT_S.
        """
        deadline = time.monotonic() + TIMEOUT_S
        while time.monotonic() < deadline:
            found = self.run(script)
            if found:
                return found
            time.sleep(0.2)
        raise AssertionError(f"{what} did not appear; the page says: {self.text()[:1000]}")

    def settle(self) -> None:
        """Wait until the page looks the same in two pictures, half a second apart."""
        before = ""
        for _ in range(int(2 * TIMEOUT_S)):
            now = str(self._answer("GET", "/screenshot", None))
            if now == before:
                return
            before = now
            time.sleep(0.5)

    def text(self) -> str:
        """The page's visible text."""
        return str(self.run("return document.body.innerText"))

    def wait_for_text(self, text: str) -> None:
        """Wait until the page shows a text."""
        self.wait_for(f"return document.body.innerText.includes({json.dumps(text)})", repr(text))

    def resize(self, width: int, height: int) -> None:
        """Set the window's size."""
        self._answer("POST", "/window/rect", {"width": width, "height": height})

    def screenshot(self, file: Path) -> None:
        """Write what the window shows, as PNG."""
        file.write_bytes(base64.b64decode(self._answer("GET", "/screenshot", None)))

    def _answer(
        self, method: str, path: str, content: dict[str, Any] | None, patience_s: float = 0.0
    ) -> Any:
        data = None if content is None else json.dumps(content).encode()
        deadline = time.monotonic() + patience_s
        while True:
            request = urllib.request.Request(
                self._url + path, data, {"Content-Type": "application/json"}, method=method
            )
            try:
                with urllib.request.urlopen(request, timeout=TIMEOUT_S) as answer:
                    return json.load(answer)["value"]
            except urllib.error.HTTPError as error:
                raise AssertionError(json.load(error)["value"]["message"]) from None
            except urllib.error.URLError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.2)
