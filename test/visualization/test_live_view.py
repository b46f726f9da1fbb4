"""The server of the live view: where it listens, that it ends, and what a browser shows."""

from __future__ import annotations

import importlib.util
import io
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import psutil
import pytest

from multimodal_perception.cli.main import main
from multimodal_perception.configuration import UserError
from multimodal_perception.visualization.live_view import (
    ServerConfig,
    resolve_host,
    viewer_process,
)
from test.visualization.rrd_entities import entities

SCREENSHOT = Path(__file__).parents[2] / "scripts" / "browser_screenshot.py"


def free_ports() -> tuple[int, int]:
    with socket.socket() as first, socket.socket() as second:
        for probe in (first, second):
            probe.bind(("127.0.0.1", 0))
        return first.getsockname()[1], second.getsockname()[1]


@contextmanager
def view(*arguments: str) -> Iterator[tuple[subprocess.Popen[str], list[str]]]:
    """The command in another process, and its output until it waits for Ctrl-C."""
    command = [sys.executable, "-m", "multimodal_perception.cli.main", "view", *arguments]
    process = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    assert process.stdout is not None
    lines: list[str] = []
    try:
        for line in process.stdout:
            lines.append(line.strip())
            if "Ctrl-C" in line:
                break
        yield process, lines
    finally:
        process.kill()
        process.wait(60)


def test_default_server_accepts_connections_of_this_computer_only() -> None:
    port, web_port = free_ports()
    with viewer_process(ServerConfig(port=port, web_port=web_port)) as process:
        connections = psutil.Process(process.pid).net_connections("inet")
        listening = {c.laddr for c in connections if c.status == psutil.CONN_LISTEN}
        assert {(a.ip, a.port) for a in listening} == {("127.0.0.1", port), ("127.0.0.1", web_port)}
    assert process.poll() is not None


def test_a_port_in_use_is_reported_before_anything_starts() -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        config = ServerConfig(port=port, web_port=free_ports()[0])
        with (
            pytest.raises(UserError, match=rf"port {port}: .*--web-port"),
            viewer_process(config),
        ):
            pass


@pytest.mark.parametrize(
    ("config", "page"),
    [
        (
            ServerConfig(),
            "http://localhost:9090/?url=rerun%2Bhttp%3A%2F%2Flocalhost%3A9876%2Fproxy",
        ),
        (
            ServerConfig("192.168.0.7", 1, 2),
            "http://192.168.0.7:2/?url=rerun%2Bhttp%3A%2F%2F192.168.0.7%3A1%2Fproxy",
        ),
        (
            ServerConfig("fd00::1", 1, 2),
            "http://[fd00::1]:2/?url=rerun%2Bhttp%3A%2F%2F%5Bfd00%3A%3A1%5D%3A1%2Fproxy",
        ),
    ],
)
def test_the_page_contains_the_address_of_the_data(config: ServerConfig, page: str) -> None:
    assert config.page_url == page


def test_unknown_hosts_are_refused() -> None:
    assert resolve_host("localhost") in ("127.0.0.1", "::1")
    with pytest.raises(UserError, match=r"--host no\.such\.host"):
        resolve_host("no.such.host")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["synthetic", "--save", "a.mp4"], "suffix must be .rrd"),
        (["--pipeline", "p.yaml"], "only allowed with PATH"),
        (["synthetic", "--namespace", "robot"], "only allowed without PATH"),
        (["no_such_folder", "--save", "a.rrd"], "no_such_folder"),
        (["synthetic", "--port", "7", "--web-port", "7"], "must differ"),
    ],
)
def test_unusable_arguments_have_one_clear_line(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["view", *arguments]) == 2
    error = capsys.readouterr().err
    assert message in error and len(error.splitlines()) == 1


def test_a_recording_of_the_command_contains_all_results(tmp_path: Path) -> None:
    path = tmp_path / "a.rrd"
    pipeline = tmp_path / "pipeline.yaml"
    pipeline.write_text("detector: geometric\n")
    arguments = ["--pipeline", str(pipeline), "--frames", "2", "--save", str(path)]
    assert main(["view", "synthetic", *arguments]) == 0
    found = entities(path)
    for entity in ("/base_link/objects", "/occupancy/grid", "/health/lidar/level", "/health_table"):
        assert found[entity] == 2, found
    assert found["/stage_ms/total"] == 2


def test_a_browser_shows_the_stream(tmp_path: Path) -> None:
    """The page loads, receives the frames and draws them; Ctrl-C ends command and server."""
    spec = importlib.util.spec_from_file_location("browser_screenshot", SCREENSHOT)
    assert spec is not None and spec.loader is not None
    browser = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(browser)
    if browser.find_browser() is None:
        pytest.skip("no Chromium is installed")
    pytest.importorskip("websocket", reason="websocket-client is not installed")
    from PIL import Image

    pipeline = tmp_path / "pipeline.yaml"
    pipeline.write_text("detector: geometric\n")
    port, web_port = free_ports()
    arguments = ["--frames", "2", "--port", str(port), "--web-port", str(web_port)]
    with view("synthetic", "--pipeline", str(pipeline), *arguments) as (process, lines):
        (url,) = [line.removeprefix("browser: ") for line in lines if line.startswith("browser")]
        with urllib.request.urlopen(url) as page:
            assert page.status == 200

        def shows_camera(png: bytes) -> bool:
            """Whether the right part has the sky and the left part the black ground of the 3D view."""
            pixels = np.asarray(Image.open(io.BytesIO(png)).convert("RGB"), np.int16)
            sky = np.abs(pixels - (159, 188, 224)).max(axis=2) < 12
            ground = np.abs(pixels - (22, 24, 28)).max(axis=2) < 4
            return bool(sky.mean() > 0.01 and ground.mean() > 0.1)

        assert shows_camera(browser.take_screenshot(url, 90.0, (1200, 800), shows_camera))
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 0
    with socket.socket() as probe:
        assert probe.connect_ex(("127.0.0.1", port)) != 0


def test_the_server_ends_with_a_killed_command(tmp_path: Path) -> None:
    pipeline = tmp_path / "pipeline.yaml"
    pipeline.write_text("detector: geometric\noccupancy: none\n")
    port, web_port = free_ports()
    arguments = ["--frames", "1", "--port", str(port), "--web-port", str(web_port)]
    with view("synthetic", "--pipeline", str(pipeline), *arguments) as (process, _):
        (server,) = psutil.Process(process.pid).children()
        os.kill(process.pid, signal.SIGKILL)
        end = time.monotonic() + 30.0
        while server.is_running() and server.status() != psutil.STATUS_ZOMBIE:
            assert time.monotonic() < end, "the server is still running"
            time.sleep(0.05)
