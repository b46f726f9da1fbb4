"""Child processes end with their parent; ROS domains and reruns of the tests."""

from __future__ import annotations

import os
import random
import runpy
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from multimodal_perception.processes import WorkerPool

# Starts a process that sleeps for a minute, prints its process id, and waits.
PARENT = """
import os, subprocess, sys
from functools import partial
from multimodal_perception.processes import terminate_with_parent
sleep = [sys.executable, "-c", "import time; time.sleep(60)"]
end = partial(terminate_with_parent, {parent})
child = subprocess.Popen(sleep, start_new_session=True, preexec_fn=end)
print(child.pid, flush=True)
child.wait()
print(child.returncode, flush=True)
"""
POOL = """
import os, time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from multimodal_perception.processes import initialise_worker
if __name__ == "__main__":
    with ProcessPoolExecutor(1, get_context("spawn"), initialise_worker) as pool:
        print(pool.submit(os.getpid).result(), flush=True)
        time.sleep(60)
"""


def runs(process_id: int) -> bool:
    try:
        state = Path(f"/proc/{process_id}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"


def group_runs(group: int) -> bool:
    """Whether a process of a process group runs; zombies do not count."""
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, process_group = path.read_text().rpartition(")")[2].split()[:3]
        except OSError:
            continue
        if int(process_group) == group and state != "Z":
            return True
    return False


def ended(process_id: int) -> bool:
    end = time.monotonic() + 30.0
    while runs(process_id) and time.monotonic() < end:
        time.sleep(0.02)
    return not runs(process_id)


@pytest.mark.skipif(sys.platform != "linux", reason="PR_SET_PDEATHSIG exists on Linux only")
@pytest.mark.parametrize(
    "script", [PARENT.format(parent="os.getpid()"), POOL], ids=["child", "pool"]
)
def test_children_of_a_killed_process_are_terminated(script: str, tmp_path: Path) -> None:
    path = tmp_path / "parent.py"
    path.write_text(script)
    parent = subprocess.Popen([sys.executable, path], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    child = int(parent.stdout.readline())
    assert runs(child)
    parent.kill()
    parent.wait()
    assert ended(child)


@pytest.mark.skipif(sys.platform != "linux", reason="PR_SET_PDEATHSIG exists on Linux only")
def test_child_exits_if_its_parent_has_already_ended() -> None:
    script = PARENT.format(parent="os.getppid()")  # not the process that starts the child
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=120
    )
    assert done.stdout.split()[1:] == ["1"]


def test_each_test_run_has_its_own_ros_domain(monkeypatch: pytest.MonkeyPatch) -> None:
    """The second run tries the occupied domain first."""
    conftest = str(Path(__file__).with_name("conftest.py"))
    monkeypatch.delenv("PYTEST_XDIST_WORKER", raising=False)
    names = runpy.run_path(conftest)
    _hold_domain, chosen = names["_hold_domain"], names["DOMAIN_WAS_CHOSEN"]
    monkeypatch.delenv("ROS_DOMAIN_ID")
    first, held = _hold_domain()
    with held:
        others = [n for n in range(1, 102) if n != int(first)]
        monkeypatch.setattr(random.SystemRandom, "sample", lambda *_: [int(first), *others])
        second, held_too = _hold_domain()
        held_too.close()
        assert 1 <= int(first) <= 101 and second != first
    monkeypatch.delenv(chosen)
    monkeypatch.setenv("ROS_DOMAIN_ID", "7")
    assert _hold_domain() == ("7", None)
    # A worker of pytest-xdist has a domain of its own.
    monkeypatch.setenv("PYTEST_XDIST_WORKER", "gw1")
    runpy.run_path(conftest)
    assert os.environ["ROS_DOMAIN_ID"] == "8"


@pytest.mark.parametrize("plugins", [{"rerunfailures"}, set()])
def test_only_tests_that_are_marked_live_are_rerun(plugins: set[str]) -> None:
    rules = runpy.run_path(str(Path(__file__).with_name("conftest.py")))
    config: Any = SimpleNamespace(
        rootpath=Path("/tests"), pluginmanager=SimpleNamespace(hasplugin=plugins.__contains__)
    )

    class Item:
        path, nodeid = Path("/tests/test/test_a.py"), "test_a.py::test_a"

        def __init__(self, *names: str) -> None:
            self.markers = {name: getattr(pytest.mark, name) for name in names}

        def get_closest_marker(self, name: str) -> Any:
            return self.markers.get(name)

        def add_marker(self, marker: Any) -> None:
            self.markers[marker.name] = marker

    live, logic = Item("live"), Item()
    rules["pytest_collection_modifyitems"](config, [live, logic])
    assert "flaky" not in logic.markers
    assert ("flaky" in live.markers) == bool(plugins)
    if plugins:
        assert live.markers["flaky"].kwargs["reruns"] == 2
        assert live.markers["flaky"].kwargs["reruns_delay"] > 0
        with pytest.raises(pytest.UsageError, match="only tests marked live"):
            rules["pytest_collection_modifyitems"](config, [live])


INTERRUPTED_POOL = """
import os, sys, time
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from multimodal_perception.processes import WorkerPool
if __name__ == "__main__":
    print(os.getpid(), flush=True)
    with WorkerPool(2) as pool:
        tasks = [pool.submit(time.sleep, 60) for _ in range(4)]
        for k, process in enumerate(pool._processes.values()):
            print(process.pid, flush=True)
        tasks[0].result()
"""


@pytest.mark.parametrize("delay_s", [0.0, 0.02, 0.1, 0.3, 0.6, 1.0])
def test_an_interrupt_at_any_moment_ends_the_workers(delay_s: float, tmp_path: Path) -> None:
    """Ctrl-C reaches the whole process group of a terminal, also workers that are still starting."""
    path = tmp_path / "parent.py"
    path.write_text(INTERRUPTED_POOL)
    parent = subprocess.Popen(
        [sys.executable, path],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert parent.stdout is not None
    group = int(parent.stdout.readline())
    time.sleep(delay_s)
    os.killpg(group, signal.SIGINT)
    output, errors = parent.communicate(timeout=60.0)
    assert parent.returncode != 0
    assert errors.count("Traceback") <= 1, errors  # that of the parent's KeyboardInterrupt
    for child in map(int, output.split()):
        assert ended(child)
    end = time.monotonic() + 30.0
    while group_runs(group) and time.monotonic() < end:
        time.sleep(0.02)
    assert not group_runs(group)


def test_a_failed_task_ends_the_pool_and_keeps_the_error() -> None:
    with pytest.raises(ZeroDivisionError), WorkerPool(2) as pool:
        waiting = pool.submit(time.sleep, 60)
        pool.submit(divmod, 1, 0).result()
    assert waiting.cancelled() or waiting.exception() is not None
