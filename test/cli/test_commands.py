"""Commands as a user types them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import cv2
import pytest

from multimodal_perception.cli.import_worker import Imported, import_modules
from multimodal_perception.cli.main import main
from multimodal_perception.datasets.open_dataset import open_dataset
from multimodal_perception.frame import Modality
from multimodal_perception.rig import dump_rig


def test_a_converted_bag_can_be_evaluated_and_drawn(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bag = tmp_path / "bag"
    assert main(["convert", "--dataset", "synthetic", "--out", str(bag), "--storage", "mcap"]) == 0
    assert "/lidar/points" in capsys.readouterr().out
    result = tmp_path / "r.json"
    arguments = ["evaluate", "detections", "--root", str(bag), "--repeats", "1"]
    assert main([*arguments, "--json", str(result)]) == 0
    content = json.loads(result.read_text())
    assert {"frames", "recall_1m", "precision_1m", "by_class", "latency_ms", "stage_ms"} <= set(
        content
    )
    assert content["frames"] == 10 and content["recall_1m"] > 0.7
    assert set(content["latency_ms"]) == {"p50", "p95"}
    picture = tmp_path / "out" / "frame.png"
    assert main(["draw", str(bag), "--frame", "3", "--out", str(picture)]) == 0
    image = cv2.imread(str(picture))
    assert image is not None and image.shape[1] == 1640


def test_occupancy_layers_are_drawn(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    picture, pipeline = tmp_path / "layers.png", tmp_path / "pipeline.yaml"
    arguments = ["draw", "synthetic", "--frame", "2", "--layers", "--out", str(picture)]
    assert main(arguments) == 0
    image = cv2.imread(str(picture))
    assert image is not None and image.shape[1] > 1600
    pipeline.write_text("occupancy: none\n")
    assert main([*arguments, "--pipeline", str(pipeline)]) == 2
    assert "no layers" in capsys.readouterr().err
    assert main([*arguments, "--history", "-1"]) == 2


def test_a_rerun_recording_is_written(tmp_path: Path) -> None:
    pytest.importorskip("rerun")
    assert main(["draw", "synthetic", "--out", str(tmp_path / "street.rrd")]) == 0
    assert (tmp_path / "street.rrd").stat().st_size > 100_000


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["draw", "synthetic", "--frame", "99", "--out", "a.png"], "frames 0 to 9"),
        (["draw", "synthetic", "--out", "a.gif"], ".png or .rrd"),
        (["draw", "/no/such/folder", "--out", "a.png"], "no such file or folder"),
        (["convert", "--root", "synthetic", "--out", "/proc/bag"], "/proc/bag"),
        (["replay", "synthetic", "--rate", "0"], "--rate: allowed: a number, 0.01 to 1000"),
        (["evaluate", "detections", "--pipeline", "/no/file.yaml"], "/no/file.yaml"),
        (["run", "--rig", "no_such_rig"], "could not be started"),
    ],
)
def test_user_errors_are_one_line_and_exit_code_2(
    arguments: list[str], words: str, tmp_path: Path
) -> None:
    command = [sys.executable, "-m", "multimodal_perception.cli.main", *arguments]
    process = subprocess.run(
        command, capture_output=True, text=True, timeout=120, cwd=tmp_path, env=dict(os.environ)
    )
    assert process.returncode == 2, process.stderr
    assert words in process.stderr
    assert "Traceback" not in process.stderr
    assert not list(tmp_path.iterdir())


def test_doctor_lists_installed_and_missing_packages(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from multimodal_perception.cli import doctor

    monkeypatch.setenv("COLUMNS", "200")
    assert main(["doctor"]) == 0
    assert "rclpy" in capsys.readouterr().out
    found = doctor.import_all()
    absent = {name: Imported(name, error="No module") for name in ("numba", "open3d", "rosbags")}
    monkeypatch.setattr(doctor, "import_all", lambda: {**found, **absent})
    assert main(["doctor"]) == 1
    output = capsys.readouterr().out
    assert "cannot run without: numba" in output  # the others belong to extras
    assert "pip install numba" in output and "pip install open3d-cpu" in output
    absent = {name: Imported(name, error="No module") for name in doctor.ENGINES}
    monkeypatch.setattr(doctor, "import_all", lambda: {**found, **absent})
    assert main(["doctor"]) == 1
    assert "cannot run without: onnxruntime" in capsys.readouterr().out


def test_a_module_that_ends_the_process_does_not_hide_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a library of another processor or a wrong ABI does."""
    (tmp_path / "breaks_process.py").write_text("import os; print('{}'); os._exit(7)")
    (tmp_path / "breaks_import.py").write_text("raise RuntimeError('wrong ABI')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    names = ["json", "breaks_process", "breaks_import", "no_such_module", "csv"]
    found = import_modules([names])
    assert list(found) == names
    assert found["csv"].version and not found["csv"].error and not found["json"].error
    assert "status 7" in found["breaks_process"].error
    assert found["breaks_import"].error == "wrong ABI"
    assert "no_such_module" in found["no_such_module"].error


def test_doctor_compiles_kernels_in_advance(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from multimodal_perception import kernels

    monkeypatch.setenv("COLUMNS", "200")
    assert main(["doctor", "--warm", "--rig", "kitti"]) == 0
    assert f"kernels: {kernels.CACHE_FOLDER}" in capsys.readouterr().out.replace("\n", "")
    assert list(kernels.CACHE_FOLDER.rglob("*.nbc"))  # type: ignore[union-attr]


@pytest.mark.live
def test_the_demo_replays_four_modalities_into_the_node(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from multimodal_perception.cli import demo

    drive = open_dataset(demo.DRIVE)  # used without sample data
    assert {s.modality for s in drive.rig.sensors.values()} == set(Modality)
    few = ("lidar", "camera_rear", "thermal_front", "front_left", "rear_right")
    rig = tmp_path / "rig.yaml"
    rig.write_text(dump_rig(replace(drive.rig, sensors={n: drive.rig.sensors[n] for n in few})))
    monkeypatch.setattr(demo, "SAMPLE", tmp_path / "absent")
    monkeypatch.setattr(demo, "DRIVE", f"simulated:parking_lot,frames=2,rig={rig}")
    out = tmp_path / "out"
    assert main(["demo", "--out", str(out), "--rate", "1", "--loops", "2"]) == 0
    assert "parking_lot" in capsys.readouterr().out
    result = json.loads((out / "demo.json").read_text())
    assert result["sent"] == result["received"] == 4
    picture = cv2.imread(str(out / "frame_01.png"))
    assert picture is not None and picture.shape[0] > 2000
