"""evaluate detections, as a user types it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from multimodal_perception.cli.main import main


def evaluated(out: Path, *arguments: str) -> dict:  # type: ignore[type-arg]
    command = ["evaluate", "detections", "--repeats", "1", "--json", str(out), *arguments]
    assert main(command) == 0
    return dict(json.loads(out.read_text()))


def test_labelled_frames_get_all_figures(tmp_path: Path) -> None:
    result = evaluated(tmp_path / "r.json", "--root", "synthetic", "--detector", "geometric")
    assert result["detector"] == "geometric" and result["frames"] == 10
    counts = result["counts"]
    assert result["false_per_frame"] == pytest.approx((counts["boxes"] - counts["right"]) / 10)
    figures = result["nuscenes"]
    assert 0.5 < figures["map"] < 1.0 and 0.0 < figures["nds"] < 1.0
    assert list(figures["by_class"]) == ["car", "truck", "bus", "pedestrian", "cyclist"]
    assert list(figures["by_distance"]) == ["0-15", "15-30", "30-50"]
    assert figures["aae"] is None, "the street knows of no attributes"
    near = evaluated(tmp_path / "n.json", "--max-range", "15", "--classes", "car")
    assert near["max_range"] == 15 and near["counts"]["labels"] < counts["labels"]
    assert list(near["nuscenes"]["by_class"]) == ["car"]
    assert list(near["nuscenes"]["by_distance"]) == ["0-15"]


def test_real_frames_get_kittis_figures(tmp_path: Path, shared_data: Path) -> None:
    root = str(shared_data / "kitti" / "training")
    metrics = ["--metrics", "nuscenes", "kitti"]
    result = evaluated(tmp_path / "r.json", "--dataset", "kitti", "--root", root, *metrics)
    assert result["recall_1m"] >= 0.8 and result["false_per_frame"] <= 2.0
    assert result["kitti"]["labels"]["Car"]["hard"] >= 4
    for metric in ("image", "bev", "3d"):
        assert set(result["kitti"][metric]) == {"Car", "Pedestrian", "Cyclist"}
    assert result["nuscenes"]["by_class"]["car"]["ap"] > 0.3


def test_a_drive_in_a_row_gets_velocities_and_tracks(tmp_path: Path) -> None:
    rig = tmp_path / "rig.yaml"
    rig.write_text(
        "name: roof\nsensors:\n  lidar: {modality: lidar, topic: /points, frame_id: lidar,"
        " rate_hz: 10.0, extrinsics: {xyz: [0.0, 0.0, 1.7]}}\n"
    )
    drive = f"simulated:urban_street,seed=10000,frames=8,rig={rig}"
    result = evaluated(tmp_path / "r.json", "--root", drive, "--detector", "geometric")
    figures, tracking = result["nuscenes"], result["tracking"]
    assert figures["nds_without"] == ["aae"]
    assert 0.0 < figures["by_class"]["pedestrian"]["ave"] < 1.2
    assert tracking["frames"] == 8 and tracking["labels"] > 50
    assert tracking["id_switches"] < 0.05 * tracking["labels"] and tracking["mota"] > 0.3
    # Without tracks nothing is measured, and the score says so.
    (tmp_path / "off.yaml").write_text("tracking: {enabled: false}\n")
    off = ["--pipeline", str(tmp_path / "off.yaml"), "--detector", "geometric"]
    result = evaluated(tmp_path / "r.json", "--root", drive.replace("=8", "=2"), *off)
    assert result["nuscenes"]["ave"] is None and "tracking" not in result
    assert result["nuscenes"]["nds_without"] == ["ave", "aae"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--metrics", "kitti"], "KITTI's layout"),
        (["--detector", "magic"], "geometric"),
        (["--max-range", "nan"], "--max-range"),
        (["--root", "/no/such/folder"], "no such file"),
    ],
)
def test_mistakes_are_told(
    arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["evaluate", "detections", *arguments]) == 2
    assert words in capsys.readouterr().err


def test_the_real_nuscenes_sample_is_found_as_the_readme_states(
    tmp_path: Path, shared_data: Path
) -> None:
    result = evaluated(tmp_path / "r.json", "--root", str(shared_data / "nuscenes_frame"))
    assert result["counts"]["labels"] == 7 and result["recall_1m"] >= 0.8
