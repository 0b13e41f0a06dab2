"""A headless Chromium, driven over the WebDriver protocol: plain HTTP and JSON, so that no package is needed."""

import base64
import contextlib
import json
import re
import shutil
import subprocess
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
DRIVER = shutil.which("chromedriver")
_ELEMENT = "element-6066-11e4-a52e-4f735466cecf"  # the key under which the protocol names an element
_OPTIONS = ["--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu", "--window-size=900,900"]


class Browser:
    """One page."""

    def __init__(self, session: str) -> None:
        """session: the address of a WebDriver session."""
        self._session = session

    def open(self, url: str) -> None:
        """Go to a page."""
        _ask(f"{self._session}/url", {"url": url})

    def run(self, script: str, *arguments: object) -> Any:  # noqa: ANN401  (whatever the script returns)
        """Run JavaScript: a function's body, which sees `arguments`."""
        return _ask(f"{self._session}/execute/sync", {"script": script, "args": list(arguments)})

    def wait_for(self, script: str) -> Any:  # noqa: ANN401
        """The first value of an expression that is true. The browser looks again at each change of the page."""
        looking = f"""
            const done = arguments[0];
            const look = () => {{ const found = {script}; if (found) {{ done(found); return true; }} return false; }};
            if (!look()) {{
              const observer = new MutationObserver(() => look() && observer.disconnect());
              observer.observe(document, {{ subtree: true, childList: true, characterData: true, attributes: true }});
            }}"""
        return _ask(f"{self._session}/execute/async", {"script": looking, "args": []})

    def choose(self, selector: str, *files: Path) -> None:
        """Choose files in a field for uploads."""
        found = _ask(f"{self._session}/element", {"using": "css selector", "value": selector})
        text = "\n".join(str(file.resolve()) for file in files)
        _ask(f"{self._session}/element/{found[_ELEMENT]}/value", {"text": text})

    def set_scheme(self, scheme: str) -> None:
        """Prefer `light` or `dark`."""
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        self._devtools("Emulation.setEmulatedMedia", {"features": features})

    def screenshot(self, file: Path) -> None:
        """Write a PNG of the whole page."""
        found = self._devtools("Page.captureScreenshot", {"format": "png", "captureBeyondViewport": True})
        file.write_bytes(base64.b64decode(found["data"]))

    def log(self) -> list[str]:
        """What the page's console has said since the last call."""
        return [entry["message"] for entry in _ask(f"{self._session}/se/log", {"type": "browser"})]

    def _devtools(self, command: str, params: dict[str, object]) -> Any:  # noqa: ANN401
        return _ask(f"{self._session}/goog/cdp/execute", {"cmd": command, "params": params})


@contextlib.contextmanager
def browser() -> Iterator[Browser]:
    """A new browser with a profile of its own."""
    assert CHROMIUM
    assert DRIVER
    driver = subprocess.Popen([DRIVER, "--port=0"], stdout=subprocess.PIPE, text=True)
    try:
        assert driver.stdout
        port = next(found[1] for line in driver.stdout if (found := re.search(r"successfully on port (\d+)", line)))
        url = f"http://127.0.0.1:{port}/session"
        wanted = {
            "goog:chromeOptions": {"binary": CHROMIUM, "args": _OPTIONS},
            "goog:loggingPrefs": {"browser": "ALL"},
            "timeouts": {"script": 600_000},
        }
        started = _ask(url, {"capabilities": {"alwaysMatch": wanted}})
        session = f"{url}/{started['sessionId']}"
        try:
            yield Browser(session)
        finally:
            _ask(session, None, method="DELETE")
    finally:
        driver.terminate()
        driver.wait()
        assert driver.stdout
        driver.stdout.close()


def _ask(url: str, body: object, method: str = "POST") -> Any:  # noqa: ANN401
    content = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, content, {"Content-Type": "application/json"}, method=method)
    try:
        with urllib.request.urlopen(request) as response:
            return json.load(response)["value"]
    except urllib.error.HTTPError as error:
        with error:
            raise RuntimeError(error.read().decode()) from None
