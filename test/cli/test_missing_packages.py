"""Commands whose packages are not installed: one line with the extra and the pip command."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from multimodal_perception.extras import EXTRAS, MissingPackageError, import_package

FOLDER = Path(__file__).resolve().parent.parent / "absent_modules"
# Runs all commands in one process, so that modules are imported once, and prints status and errors.
PROGRAM = """
import contextlib, io, json, sys
from multimodal_perception.cli.main import main
for arguments in json.loads(sys.argv[1]):
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            status = main(arguments)
        except BaseException as error:
            status = repr(error)
    print(json.dumps([status, err.getvalue()]), flush=True)
"""


def commands(folder: Path) -> dict[str, list[list[str]]]:
    """Command lines by the extra that they need; those of "" need none."""
    (folder / "bag.mcap").write_bytes(b"\x89MCAP0\r\n")
    bag, out, rig = str(folder / "bag.mcap"), str(folder / "out"), "nuscenes_like"
    return {
        "bags": [
            ["convert", "--root", "synthetic", "--out", out],
            ["rig", "check", rig, "--bag", bag, "--out", out],
            ["demo", "--out", out],
            ["draw", bag, "--out", f"{out}.png"],
            ["replay", bag],
        ],
        "sim": [
            ["simulate", "--rig", rig, "--frames", "1", "--out", f"{out}_simulated"],
        ],
        "view": [["view", "synthetic"]],
        "report": [["evaluate", "detections", "--root", "synthetic", "--report", out]],
        "train": [["train", "recipe", "bev_fusion", "--dry-run"]],
        "ray": [["evaluate", "detections", "--root", "synthetic", "--executor", "ray"]],
        "": [["rig", "check", rig, "--out", f"{out}.png"]],
    }


def test_each_command_names_the_extra_that_it_needs_and_others_run(tmp_path: Path) -> None:
    expected = [(name, line) for name, lines in commands(tmp_path).items() for line in lines]
    absent = " ".join(module for extra in EXTRAS for module in extra.packages)
    paths = [str(FOLDER), os.environ.get("PYTHONPATH", "")]
    environment = {"ABSENT_MODULES": absent, "PYTHONPATH": os.pathsep.join(p for p in paths if p)}
    process = subprocess.run(
        [sys.executable, "-c", PROGRAM, json.dumps([line for _, line in expected])],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=250,
        cwd=tmp_path,
    )
    assert process.returncode == 0, process.stderr
    results = [json.loads(line) for line in process.stdout.splitlines() if line]
    assert len(results) == len(expected)
    for (extra, line), (status, error) in zip(expected, results, strict=True):
        if not extra:
            assert status == 0, (line, error)
            continue
        assert status == 2, (line, status, error)
        last = error.strip().splitlines()[-1]
        assert last.startswith("error: the package ") and "pip install " in last, (line, error)
        assert f"the extra `{extra}`" in last, (line, last)
        assert "Traceback" not in error


def test_the_error_is_kept_between_processes() -> None:
    import pickle

    error = MissingPackageError("open3d", "the package open3d-cpu is not installed")
    copy = pickle.loads(pickle.dumps(error))
    assert (copy.module, str(copy)) == (error.module, str(error))


def test_a_module_of_no_extra_is_not_explained() -> None:
    with pytest.raises(ModuleNotFoundError):
        import_package("no_such_module")
