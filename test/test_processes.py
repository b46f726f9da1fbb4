"""Nothing that a process started goes on without it, and no test run hears another."""

from __future__ import annotations

import random
import runpy
import subprocess
import sys
import time
from pathlib import Path

import pytest

# Starts a process that would sleep for a minute, says its number, and waits.
PARENT = """
import os, subprocess, sys
from functools import partial
from multimodal_perception.processes import end_with
sleep = [sys.executable, "-c", "import time; time.sleep(60)"]
child = subprocess.Popen(sleep, start_new_session=True, preexec_fn=partial(end_with, {parent}))
print(child.pid, flush=True)
child.wait()
print(child.returncode, flush=True)
"""
POOL = """
import os, time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from multimodal_perception.processes import begin_worker
if __name__ == "__main__":
    with ProcessPoolExecutor(1, get_context("spawn"), begin_worker) as pool:
        print(pool.submit(os.getpid).result(), flush=True)
        time.sleep(60)
"""


def runs(process_id: int) -> bool:
    try:
        state = Path(f"/proc/{process_id}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"


def ended(process_id: int) -> bool:
    end = time.monotonic() + 10.0
    while runs(process_id) and time.monotonic() < end:
        time.sleep(0.02)
    return not runs(process_id)


@pytest.mark.skipif(sys.platform != "linux", reason="Linux tells a process of its parent's end")
@pytest.mark.parametrize(
    "script", [PARENT.format(parent="os.getpid()"), POOL], ids=["child", "pool"]
)
def test_what_a_killed_process_started_ends_with_it(script: str, tmp_path: Path) -> None:
    path = tmp_path / "parent.py"
    path.write_text(script)
    parent = subprocess.Popen([sys.executable, path], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    child = int(parent.stdout.readline())
    assert runs(child)
    parent.kill()
    parent.wait()
    assert ended(child)


@pytest.mark.skipif(sys.platform != "linux", reason="Linux tells a process of its parent's end")
def test_a_child_whose_parent_has_ended_already_does_not_begin() -> None:
    script = PARENT.format(parent="os.getppid()")  # not the one that starts it
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=30
    )
    assert done.stdout.split()[1:] == ["1"]


def test_each_test_run_has_a_domain_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another run would first try the domain that is taken."""
    _hold_domain = runpy.run_path(str(Path(__file__).with_name("conftest.py")))["_hold_domain"]
    monkeypatch.delenv("ROS_DOMAIN_ID")
    first, held = _hold_domain()
    with held:
        others = [n for n in range(1, 102) if n != int(first)]
        monkeypatch.setattr(random.SystemRandom, "sample", lambda *_: [int(first), *others])
        second, held_too = _hold_domain()
        held_too.close()
        assert 1 <= int(first) <= 101 and second != first
    monkeypatch.setenv("ROS_DOMAIN_ID", "7")
    assert _hold_domain() == ("7", None)
