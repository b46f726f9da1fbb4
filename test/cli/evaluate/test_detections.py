"""The command `evaluate detections`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from multimodal_perception.cli.main import main


def run_evaluation(out: Path, *arguments: str) -> dict:  # type: ignore[type-arg]
    command = ["evaluate", "detections", "--repeats", "1", "--json", str(out), *arguments]
    assert main(command) == 0
    return dict(json.loads(out.read_text()))


def test_result_contains_all_metrics(tmp_path: Path) -> None:
    result = run_evaluation(tmp_path / "r.json", "--root", "synthetic", "--detector", "geometric")
    assert result["detector"] == "geometric" and result["frames"] == 10
    counts = result["counts"]
    false_positives = counts["boxes"] - counts["matched_boxes"]
    assert result["false_positives_per_frame"] == pytest.approx(false_positives / 10)
    metrics = result["nuscenes"]
    assert 0.5 < metrics["map"] < 1.0 and 0.0 < metrics["nds"] < 1.0
    assert list(metrics["by_class"]) == ["car", "truck", "bus", "pedestrian", "cyclist"]
    assert list(metrics["by_distance"]) == ["0-15", "15-30", "30-50"]
    assert metrics["aae"] is None, "the synthetic street has no attributes"
    near = run_evaluation(tmp_path / "n.json", "--max-range", "15", "--classes", "car")
    assert near["max_range"] == 15 and near["counts"]["labels"] < counts["labels"]
    assert list(near["nuscenes"]["by_class"]) == ["car"]
    assert list(near["nuscenes"]["by_distance"]) == ["0-15"]


def test_kitti_metrics_on_real_frames(tmp_path: Path, shared_data: Path) -> None:
    root = str(shared_data / "kitti" / "training")
    metrics = ["--metrics", "nuscenes", "kitti"]
    result = run_evaluation(tmp_path / "r.json", "--dataset", "kitti", "--root", root, *metrics)
    assert result["recall_1m"] >= 0.8 and result["false_positives_per_frame"] <= 2.0
    assert result["kitti"]["labels"]["Car"]["hard"] >= 4
    for metric in ("image", "bev", "3d"):
        assert set(result["kitti"][metric]) == {"Car", "Pedestrian", "Cyclist"}
    assert result["nuscenes"]["by_class"]["car"]["ap"] > 0.3


def test_consecutive_frames_give_velocity_and_tracking_metrics(tmp_path: Path) -> None:
    rig = tmp_path / "rig.yaml"
    rig.write_text(
        "name: roof\nsensors:\n  lidar: {modality: lidar, topic: /points, frame_id: lidar,"
        " rate_hz: 10.0, extrinsics: {xyz: [0.0, 0.0, 1.7]}}\n"
    )
    drive = f"simulated:urban_street,seed=10000,frames=8,rig={rig}"
    result = run_evaluation(tmp_path / "r.json", "--root", drive, "--detector", "geometric")
    metrics, tracking = result["nuscenes"], result["tracking"]
    assert metrics["nds_excluded_errors"] == ["aae"]
    assert 0.0 < metrics["by_class"]["pedestrian"]["ave"] < 1.2
    assert tracking["frames"] == 8 and tracking["labels"] > 50
    assert tracking["id_switches"] < 0.05 * tracking["labels"] and tracking["mota"] > 0.3
    # Without tracking there are no velocities, and NDS excludes the velocity error.
    (tmp_path / "off.yaml").write_text("tracking: {enabled: false}\n")
    off = ["--pipeline", str(tmp_path / "off.yaml"), "--detector", "geometric"]
    result = run_evaluation(tmp_path / "r.json", "--root", drive.replace("=8", "=2"), *off)
    assert result["nuscenes"]["ave"] is None and "tracking" not in result
    assert result["nuscenes"]["nds_excluded_errors"] == ["ave", "aae"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--metrics", "kitti"], "KITTI's layout"),
        (["--detector", "magic"], "geometric"),
        (["--max-range", "nan"], "--max-range"),
        (["--root", "/no/such/folder"], "no such file"),
    ],
)
def test_invalid_arguments_are_reported(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["evaluate", "detections", *arguments]) == 2
    assert message in capsys.readouterr().err


def test_recall_on_the_real_nuscenes_sample(tmp_path: Path, shared_data: Path) -> None:
    result = run_evaluation(tmp_path / "r.json", "--root", str(shared_data / "nuscenes_frame"))
    assert result["counts"]["labels"] == 7 and result["recall_1m"] >= 0.8
