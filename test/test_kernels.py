"""Kernels run without a writable cache, and a cache is never used after a change of the sources."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from multimodal_perception import kernels

PACKAGE = Path(kernels.__file__).parent
SCRIPT = """
import logging, sys
logging.basicConfig(stream=sys.stdout, format="%(message)s")
from multimodal_perception import kernels
@kernels.njit(nogil=True)
def double(x):
    return 2 * x
print(double(21), kernels.CACHE_FOLDER)
"""


def run(folder: Path, script: str = SCRIPT, **environment: str) -> str:
    """Output of a script in a file, because numba caches functions of files only."""
    path = folder / "script.py"
    path.write_text(script)
    removed = ("NUMBA_CACHE_DIR", "ROS_HOME", "XDG_CACHE_HOME", "HOME", "TMPDIR")
    inherited = {k: v for k, v in os.environ.items() if k not in removed}
    paths = {"PYTHONPATH": str(PACKAGE.parent)}
    done = subprocess.run(
        [sys.executable, path],
        env=inherited | paths | environment,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("name", ["NUMBA_CACHE_DIR", "ROS_HOME", "XDG_CACHE_HOME"])
def test_the_first_writable_folder_is_used(name: str, tmp_path: Path) -> None:
    chosen = tmp_path / "chosen"
    output = run(tmp_path, HOME=str(tmp_path / "home"), **{name: str(chosen)})
    assert output.startswith(f"42 {chosen}")
    assert list(chosen.rglob("*.nbc"))
    assert not (tmp_path / "__pycache__").exists()


def test_unwritable_folders_are_skipped(tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("")
    output = run(tmp_path, ROS_HOME=str(blocked), HOME=str(tmp_path / "home"))
    assert output.startswith(f"42 {tmp_path / 'home' / '.cache'}")
    output = run(tmp_path, HOME=str(blocked), TMPDIR=str(tmp_path))
    assert output.startswith(f"42 {tmp_path}/multimodal_perception_")
    private = next(tmp_path.glob("multimodal_perception_*"))
    assert private.stat().st_mode & 0o077 == 0


def test_kernels_run_without_any_writable_folder(tmp_path: Path) -> None:
    script = "import multimodal_perception.files as f\nf.is_writable = lambda *a: False\n" + SCRIPT
    lines = run(tmp_path, script).splitlines()
    assert lines[-1] == "42 None"
    assert len(lines) == 2 and "compiled at each start" in lines[0]


def test_a_disk_that_fills_up_later_is_reported_once(tmp_path: Path) -> None:
    script = (
        SCRIPT + "import resource, signal\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))\n"
        "print(double(1.5), double(1j))\n"
    )
    output = run(tmp_path, script, XDG_CACHE_HOME=str(tmp_path))
    assert output.count("cannot be stored") == 1 and "3.0 2j" in output


def test_the_hash_covers_imported_modules(tmp_path: Path) -> None:
    root = tmp_path / "multimodal_perception"
    root.mkdir()
    (root / "__init__.py").write_text("")
    (root / "constants.py").write_text("A = 1\n")
    (root / "other.py").write_text("B = 1\n")
    kernel = "from multimodal_perception.constants import A\n@njit()\ndef f(): return A\n"
    (root / "kernel.py").write_text(kernel)
    first = kernels.hash_kernel_sources(root)
    (root / "other.py").write_text("B = 2\n")
    assert kernels.hash_kernel_sources(root) == first
    (root / "constants.py").write_text("A = 2\n")
    second = kernels.hash_kernel_sources(root)
    assert second != first
    (root / "callee.py").write_text("@njit()\ndef g(): return 1\n")
    several = "from multimodal_perception.callee import (\n    g,\n)\n"
    (root / "kernel.py").write_text(several + kernel)
    third = kernels.hash_kernel_sources(root)
    (root / "callee.py").write_text("@njit()\ndef g(): return 2\n")
    assert len({second, third, kernels.hash_kernel_sources(root)}) == 3


def test_no_module_bypasses_the_cache_of_this_package() -> None:
    for path in PACKAGE.rglob("*.py"):
        if path.name != "kernels.py":
            assert "numba.njit" not in path.read_text(), path


def test_caches_of_old_versions_are_removed(tmp_path: Path) -> None:
    folder = tmp_path / "current"
    for number in range(kernels.KEPT_VERSIONS + 3):
        (tmp_path / str(number)).mkdir()
        os.utime(tmp_path / str(number), (number, number))
    folder.mkdir()
    os.utime(folder, (0, 0))
    kernels._remove_old_versions(folder)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["3", "4", "5", "6", "current"]
    # Other processes use those that were used recently: they are never removed.
    assert folder.stat().st_mtime > time.time() - 60.0
    for number in range(10):
        (tmp_path / f"used{number}").mkdir()
    kernels._remove_old_versions(folder)
    assert len(list(tmp_path.glob("used*"))) == 10 and not list(tmp_path.glob("[3-6]"))
