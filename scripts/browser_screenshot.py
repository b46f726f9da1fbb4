"""Take a screenshot of a web page that draws with WebGL, in headless Chromium.

usage: python scripts/browser_screenshot.py URL OUT.png [--seconds 20] [--size 1600x1000]

`chromium --screenshot` takes the picture when the page has loaded, before the Rerun viewer has received
its data. This program waits, by Chromium's DevTools protocol. It needs websocket-client.
"""

from __future__ import annotations

import argparse
import base64
import json
import re
import shutil
import subprocess
import tempfile
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
START_TIMEOUT_S = 60.0


def find_browser() -> str | None:
    """Path of an installed Chromium, or None."""
    return next((path for name in BROWSERS if (path := shutil.which(name))), None)


def take_screenshot(
    url: str,
    seconds: float,
    size: tuple[int, int] = (1600, 1000),
    is_complete: Callable[[bytes], bool] = lambda png: False,
) -> bytes:
    """PNG of a page, `seconds` after it was opened, or as soon as is_complete(png) holds.

    Raises RuntimeError if there is no browser or it does not start.
    """
    import websocket

    browser = find_browser()
    if browser is None:
        raise RuntimeError(f"none of {', '.join(BROWSERS)} is installed")
    width, height = size
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        command = [
            browser,
            "--headless=new",
            "--no-sandbox",
            "--use-gl=angle",
            "--use-angle=swiftshader",
            "--enable-unsafe-swiftshader",
            "--hide-scrollbars",
            f"--window-size={width},{height}",
            f"--user-data-dir={profile}",
            "--remote-debugging-port=0",
            "--remote-allow-origins=*",
            "about:blank",
        ]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            port = _debugging_port(Path(profile, "DevToolsActivePort"), process)
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/json/list") as answer:
                pages = [p for p in json.load(answer) if p["type"] == "page"]
            connection = websocket.create_connection(
                pages[0]["webSocketDebuggerUrl"], timeout=120, suppress_origin=True
            )
            metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
            _call(connection, "Emulation.setDeviceMetricsOverride", metrics)
            _call(connection, "Page.navigate", {"url": url})
            end = time.monotonic() + seconds
            while True:
                time.sleep(min(2.0, max(end - time.monotonic(), 0.0)))
                png = base64.b64decode(_call(connection, "Page.captureScreenshot", {})["data"])
                if time.monotonic() >= end or is_complete(png):
                    return png
        finally:
            process.terminate()
            process.wait(20)


def _debugging_port(path: Path, process: subprocess.Popen[bytes]) -> int:
    """The port that Chromium has written to a file of its profile."""
    end = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < end and process.poll() is None:
        if path.is_file() and (text := path.read_text().split()):
            return int(text[0])
        time.sleep(0.1)
    raise RuntimeError("the browser did not start")


def _call(connection: Any, method: str, parameters: dict[str, Any]) -> dict[str, Any]:
    connection.send(json.dumps({"id": 1, "method": method, "params": parameters}))
    while True:
        answer = json.loads(connection.recv())
        if answer.get("id") == 1:
            if "error" in answer:
                raise RuntimeError(f"{method}: {answer['error']['message']}")
            return dict(answer["result"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("url")
    parser.add_argument("out", type=Path)
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--size", default="1600x1000", help="width x height in pixels")
    args = parser.parse_args()
    match = re.fullmatch(r"(\d+)x(\d+)", args.size)
    if match is None:
        parser.error(f"--size: expected WIDTHxHEIGHT; got {args.size!r}")
    args.out.write_bytes(take_screenshot(args.url, args.seconds, (int(match[1]), int(match[2]))))


if __name__ == "__main__":
    main()
