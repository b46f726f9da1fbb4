"""The node ends within 3 s after SIGINT and SIGTERM, at any moment."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
from functools import partial
from pathlib import Path

import pytest

from multimodal_perception.processes import terminate_with_parent

pytestmark = [pytest.mark.live, pytest.mark.serial]  # limits of time

LIMIT_S = 3.0
# Time for the start of the process and for a busy computer.
START_S = 90.0
RIG = """
name: vehicle
sensors:
  lidar:
    modality: lidar
    topic: /stop/points
    frame_id: lidar
    extrinsics: {xyz: [0, 0, 1.5], rpy: [0, 0, 0]}
"""
PREAMBLE = """
import sys, time
from multimodal_perception.ros.spinning import spin

def make_node():
    print("started", flush=True)
"""
COMPUTATIONS = {
    # The compiler of numba runs long functions of LLVM.
    "compiler": """
    import numba
    lines = "".join(f"    x = x * {i}.5 + x ** {i % 7}\\n" for i in range(3000))
    source = "def f(x):\\n" + lines + "    return x"
    scope = {}
    exec(source, scope)
    numba.njit(scope["f"])(1.0)
    """,
    # A caller that discards the exception, as callbacks from native code do.
    "discards the interrupt": """
    end = time.monotonic() + 60.0
    while time.monotonic() < end:
        try:
            time.sleep(60.0)
        except BaseException:
            pass
    """,
    "native function": """
    import hashlib
    for _ in range(20):
        hashlib.pbkdf2_hmac("sha512", b"a", b"b", 20_000_000)
    """,
}


def start(command: list[str], **more: object) -> subprocess.Popen[str]:
    return subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        preexec_fn=partial(terminate_with_parent, os.getpid()),
        **more,  # type: ignore[call-overload]
    )


def seconds_until_end(process: subprocess.Popen[str], number: int = signal.SIGINT) -> float:
    start_s = time.monotonic()
    process.send_signal(number)
    try:
        process.wait(30.0)
    finally:
        process.kill()
    return time.monotonic() - start_s


@pytest.mark.parametrize("computation", COMPUTATIONS)
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_process_ends_while_the_node_starts(computation: str, number: int) -> None:
    body = textwrap.indent(textwrap.dedent(COMPUTATIONS[computation]), "    ")
    code = f"{PREAMBLE}{body}\n    raise AssertionError\nsys.exit(spin(make_node, ['node']))"
    process = start([sys.executable, "-c", code])
    assert process.stdout is not None and process.stdout.readline().strip() == "started"
    time.sleep(0.5)
    assert seconds_until_end(process, number) < LIMIT_S
    assert process.returncode == 0
    assert "Traceback" not in process.stdout.read()


def test_process_ends_while_python_waits_for_threads() -> None:
    """Engines are loaded on threads, which Python joins before it exits."""
    body = """
    import threading
    threading.Thread(target=time.sleep, args=(60.0,)).start()
    time.sleep(60.0)
sys.exit(spin(make_node, ['node']))
"""
    process = start([sys.executable, "-c", PREAMBLE + body])
    assert process.stdout is not None and process.stdout.readline().strip() == "started"
    time.sleep(0.5)
    assert seconds_until_end(process) < LIMIT_S
    assert process.returncode == 0


@pytest.mark.parametrize("delay_s", [0.0, 1.0, 3.0, 8.0])
def test_node_ends_while_it_is_imported_or_kernels_compile(delay_s: float, tmp_path: Path) -> None:
    """An empty cache of kernels; the delay is counted from the first line of the entry point."""
    (tmp_path / "rig.yaml").write_text(RIG)
    arguments = ["-p", f"rig:={tmp_path / 'rig.yaml'}", "-p", "autostart:=true"]
    arguments += ["-p", "pipeline.detector:=geometric"]
    code = (
        "import sys\nfrom multimodal_perception.ros import start_node\nprint('started', flush=True)\n"
        f"sys.exit(start_node.main(['perception_node', '--ros-args', *{arguments!r}]))"
    )
    environment = {**os.environ, "NUMBA_CACHE_DIR": str(tmp_path / "cache")}
    process = start([sys.executable, "-c", code], env=environment)
    assert process.stdout is not None and process.stdout.readline().strip() == "started"
    time.sleep(delay_s)
    assert seconds_until_end(process) < LIMIT_S


def test_running_node_ends_with_status_0(tmp_path: Path) -> None:
    (tmp_path / "rig.yaml").write_text(RIG)
    command = [sys.executable, "-m", "multimodal_perception.ros.node", "--ros-args"]
    command += ["-p", f"rig:={tmp_path / 'rig.yaml'}", "-p", "autostart:=true"]
    command += ["-p", "pipeline.detector:=geometric"]
    process = start(command)
    assert process.stdout is not None
    end = time.monotonic() + START_S
    while "configured:" not in process.stdout.readline():
        assert time.monotonic() < end and process.poll() is None
    time.sleep(1.0)
    assert seconds_until_end(process) < LIMIT_S
    assert process.returncode == 0
    assert "Traceback" not in process.stdout.read()
