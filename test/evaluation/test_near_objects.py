"""Share of the near objects with a box close to them, and evaluation without some sensors."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from multimodal_perception.cli.evaluate.sensor_options import reduced_rig, with_image_detector
from multimodal_perception.cli.main import main
from multimodal_perception.configuration import UserError
from multimodal_perception.datasets.synthetic import SyntheticDataset
from multimodal_perception.evaluation.near_objects import NearObjectScore
from multimodal_perception.frame import Boxes3D, Modality, SensorFrame
from multimodal_perception.pipeline_builder import PipelineConfig


def boxes(positions: list[tuple[float, float]], points: int = 20) -> Boxes3D:
    rows = np.array([[x, y, 0.8, 4.0, 1.8, 1.6, 0.0] for x, y in positions], np.float32)
    count = len(rows)
    return Boxes3D(0, "base_link", rows.reshape(-1, 7), np.linspace(0.9, 0.5, count, dtype=np.float32),
                   np.ones(count, np.int64), num_points=np.full(count, points))  # fmt: skip


def test_labels_are_found_up_to_two_metres_and_only_once() -> None:
    labels = boxes([(5, 0), (15, 0), (25, 0), (28, 5), (60, 0)])
    found = boxes([(5, 1.9), (15, 2.1), (25, 0), (25.5, 0), (60, 0)])
    score = NearObjectScore()
    score.add(found, SensorFrame(0, labels=labels))
    result = score.summary()
    assert (result["found"], result["labels"], result["boxes"]) == (2, 4, 4)
    assert result["share"] == 0.5 and result["precision"] == 0.5
    bands = {name: (b["found"], b["labels"]) for name, b in result["by_distance"].items()}
    assert bands == {"0-10": (1, 1), "10-20": (0, 1), "20-30": (1, 2)}
    few = NearObjectScore()
    few.add(found, SensorFrame(0, labels=boxes([(5, 0)], points=3)))
    assert few.summary()["labels"] == 0 and np.isnan(few.summary()["share"])
    with pytest.raises(ValueError, match="no labels"):
        few.add(found, SensorFrame(0))


def test_evaluation_without_lidar_uses_the_image_detector_of_rigs_without_lidar(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "result.json"
    command = [
        "evaluate",
        "detections",
        "--root",
        "synthetic",
        "--repeats",
        "1",
        "--json",
        str(out),
    ]
    assert main([*command, "--detector", "geometric", "--without", "lidar"]) == 0
    result = json.loads(out.read_text())
    assert result["without"] == ["lidar"] and result["image_detector"] == "rgb_thermal"
    assert result["near_objects"]["labels"] > 0
    assert "without lidar" in " ".join(capsys.readouterr().out.split())
    every = [m.value for m in Modality]
    assert main([*command, "--without", *every]) == 2
    assert "at least one modality must remain" in capsys.readouterr().err


def test_image_detector_option_takes_names_and_models(tmp_path: Path) -> None:
    rig = SyntheticDataset(frames=1).rig
    config = PipelineConfig()
    assert with_image_detector(config, None, None, rig).image_detector == "none"
    images = reduced_rig(rig, (Modality.CAMERA,))
    assert with_image_detector(config, None, None, images).image_detector == "rgb_thermal"
    chosen = with_image_detector(config, "image_detector", [3, 2], rig)
    assert chosen.image_detector == "rgb_thermal" and chosen.rgb_thermal_detector.tiles == (3, 2)
    with pytest.raises(
        UserError, match=r"allowed: auto, none, rgb_thermal, imported.*name or folder"
    ):
        with_image_detector(config, "magic", None, rig)
    with pytest.raises(UserError, match=r"--tiles: tiles: allowed"):
        with_image_detector(config, None, [0, 2], rig)
