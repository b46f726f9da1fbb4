from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from multimodal_perception.cli.inputs import expand_inputs
from multimodal_perception.configuration import UserError


def kitti(path: Path) -> str:
    (path / "velodyne").mkdir(parents=True)
    np.zeros(4, np.float32).tofile(path / "velodyne" / "0.bin")
    return str(path)


def test_folders_patterns_and_lists_name_the_same_drives(tmp_path: Path) -> None:
    drives = [kitti(tmp_path / "drives" / name) for name in ("b", "a", "c")]
    (tmp_path / "drives" / "notes.txt").write_text("x")
    ordered = sorted(drives)
    assert expand_inputs([str(tmp_path / "drives")]) == ordered
    assert expand_inputs([str(tmp_path / "drives" / "[a-c]")]) == ordered
    assert expand_inputs([str(tmp_path / "**" / "drives")]) == ordered
    assert expand_inputs(drives) == drives  # in the given order
    listing = tmp_path / "list.txt"
    listing.write_text("# drives\ndrives/b\n\n  drives/a  \nsynthetic\nsimulated:highway,seed=3\n")
    assert expand_inputs([f"@{listing}"]) == [
        *drives[:2],
        "synthetic",
        "simulated:highway,seed=3",
    ]
    assert expand_inputs(["synthetic", drives[0]]) == ["synthetic", drives[0]]


def test_a_leading_tilde_is_expanded_in_paths_patterns_and_lists(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    drives = [kitti(tmp_path / "drives" / name) for name in ("a", "b")]
    (tmp_path / "lists").mkdir()
    (tmp_path / "lists" / "list.txt").write_text("~/drives/*\n")
    for value in ("~/drives", "~/drives/*", "@~/lists/list.txt"):
        assert expand_inputs([value]) == drives
    # Only a leading ~ of an input is expanded, not that of a file name that a pattern matches.
    monkeypatch.chdir(tmp_path / "drives")
    kitti(Path("~copy"))
    assert expand_inputs(["*"]) == ["a", "b", "~copy"]
    for value in ("~no_such_user_x", "~no_such_user_x/*"):
        with pytest.raises(UserError, match="no_such_user_x") as error:
            expand_inputs([value])
        assert "\n" not in str(error.value)


def test_missing_paths_stay_and_are_reported_when_they_are_opened(tmp_path: Path) -> None:
    missing = str(tmp_path / "missing")
    assert expand_inputs([missing]) == [missing]
    (tmp_path / "empty").mkdir()
    assert expand_inputs([str(tmp_path / "empty")]) == [str(tmp_path / "empty")]


def test_wrong_inputs_are_explained(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no file or folder matches"):
        expand_inputs([str(tmp_path / "x*")])
    with pytest.raises(UserError, match=r"list\.txt"):
        expand_inputs([f"@{tmp_path / 'list.txt'}"])
    (tmp_path / "list.txt").write_text("# nothing\n")
    with pytest.raises(UserError, match="no inputs in this list"):
        expand_inputs([f"@{tmp_path / 'list.txt'}"])
    (tmp_path / "list.txt").write_bytes(b"\xff\xfe")
    with pytest.raises(UserError, match="UTF-8"):
        expand_inputs([f"@{tmp_path / 'list.txt'}"])
    drive = kitti(tmp_path / "a")
    with pytest.raises(UserError, match="more than once"):
        expand_inputs([drive, drive])
