"""The command `calibrate check`."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import pytest

from multimodal_perception.cli.main import main
from multimodal_perception.rig import load_rig

DRIVE = "simulated:parking_lot,seed=10031,frames=2"
FAULT = "fault=extrinsic_error:camera_front:0:9:0:0:0:0.02:0.0:0"


def run_check(tmp_path: Path, drive: str, *more: str) -> int:
    paths = ["--picture", str(tmp_path / "p.png"), "--json", str(tmp_path / "f.json")]
    return main(["calibrate", "check", drive, "--frames", "1", *paths, *more])


def test_rotated_camera_is_detected_and_corrected(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "rig.yaml"
    assert run_check(tmp_path, f"{DRIVE},{FAULT}", "--out", str(out)) == 1
    results = json.loads((tmp_path / "f.json").read_text())
    front = results["camera_front to lidar"]
    assert front["result"] == "ERROR" and front["angle_deg"] == pytest.approx(1.15, abs=0.3)
    assert results["camera_rear to lidar"]["result"] == "OK"
    assert "corrected extrinsics of camera_front" in capsys.readouterr().out
    assert cv2.imread(str(tmp_path / "p.png")) is not None
    assert "camera_front" in load_rig(out).sensors


def test_data_without_sensor_pairs_is_an_error(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "velodyne").mkdir()
    (tmp_path / "velodyne" / "000000.bin").write_bytes(b"\0\0\0\0" * 8)
    assert run_check(tmp_path, str(tmp_path)) == 2
    assert "no camera with a LiDAR" in capsys.readouterr().err
    assert main(["calibrate", "check", "nowhere"]) == 2
    assert main(["calibrate", "check", "synthetic", "--frames", "0"]) == 2
