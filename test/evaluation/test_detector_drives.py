"""Comparison of detectors on simulated drives: drives, subsets of the sensors, and metrics."""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pytest

from multimodal_perception.cli.main import main
from multimodal_perception.evaluation.breakdown import observable_labels
from multimodal_perception.evaluation.detector_drives import (
    DetectorSetup,
    camera_coverage,
    compare_detectors,
    modality_subsets,
    plan_drives,
    simulate_frames,
)
from multimodal_perception.frame import Boxes3D, Modality, SensorFrame
from multimodal_perception.pipeline_builder import PipelineConfig
from multimodal_perception.pointcloud.ground_segmentation import Cloud
from multimodal_perception.rig import Rig, dump_rig, load_rig, parse_rig, resolve_rig_path
from multimodal_perception.stages import ImageResults


def small_rig() -> Rig:
    sensors = {
        "lidar": {
            "modality": "lidar",
            "topic": "/lidar/points",
            "frame_id": "lidar",
            "extrinsics": {"xyz": [0.0, 0.0, 1.8]},
            "simulation": {"model": "vlp16", "columns": 600},
        },
        "sonar": {
            "modality": "ultrasonic",
            "topic": "/sonar",
            "frame_id": "sonar",
            "extrinsics": {"xyz": [1.8, -0.9, 0.5], "rpy": [0.0, 0.0, -1.5708]},
            "limits": {"min_range": 0.15, "max_range": 5.0, "field_of_view": 1.05},
        },
    }
    return parse_rig({"name": "small", "sensors": sensors}, "test rig")


@dataclass
class LabelDetector:
    """Returns the labels of frames with LiDAR, and records its inputs."""

    name: str = "labels"
    uses_proposals: bool = False
    uses_masks: bool = False
    counts: dict[str, int] = field(default_factory=dict)
    inputs: list[SensorFrame] = field(default_factory=list)

    def prepare(self, frame: SensorFrame) -> None: ...

    def detect(
        self,
        frame: SensorFrame,
        cloud: Cloud,
        proposals: Boxes3D | None = None,
        image_results: ImageResults | None = None,
    ) -> Boxes3D:
        self.inputs.append(frame)
        if not frame.lidars or frame.labels is None:
            return Boxes3D.empty(frame.stamp_ns, frame.base_frame)
        return frame.labels


def test_every_seed_is_simulated_by_day_and_by_night() -> None:
    drives = plan_drives(range(10_000, 10_004), frames=3, interval=10)
    assert len(drives) == 8 and len({d.scenario for d in drives}) == 4
    assert [d.condition for d in drives[:2]] == ["day", "night"]
    assert drives[0].scenario == drives[1].scenario and drives[0].seed == drives[1].seed
    assert list(drives[0].indices) == [10, 20, 30]
    assert drives == plan_drives(range(10_000, 10_004), frames=3, interval=10)
    rig = small_rig()
    day, night = (d.plan(rig).simulation() for d in drives[:2])
    assert night.conditions.night and not day.conditions.night


def test_all_setups_receive_the_same_frames_with_their_own_modalities() -> None:
    frames = list(simulate_frames(plan_drives([10_000], 2, 10), small_rig()))
    assert [d.condition for d, _ in frames] == ["day", "day", "night", "night"]
    assert all(f.labels is not None and f.labels.visibility is not None for _, f in frames)
    complete, ultrasonic = LabelDetector(), LabelDetector()
    setups = {
        "all": DetectorSetup(complete),
        "ultrasonic": DetectorSetup(ultrasonic, (Modality.ULTRASONIC,)),
    }
    metrics = compare_detectors(frames, setups)
    stamps = [f.stamp_ns for _, f in frames]
    # The first frame is processed twice, so that compilation is not part of the latency.
    assert [f.stamp_ns for f in complete.inputs] == stamps[:1] + stamps
    assert [f.stamp_ns for f in complete.inputs] == [f.stamp_ns for f in ultrasonic.inputs]
    assert all(not f.lidars and f.ultrasonics for f in ultrasonic.inputs)
    assert ultrasonic.inputs[0].missing == {"lidar"}
    detected, empty = metrics["all"], metrics["ultrasonic"]
    assert detected["labels"] == empty["labels"] > 0
    assert detected["map"] > 0.5 and empty["map"] == 0.0
    for name in ("map", "nds", "by_class", "by_distance", "latency_ms"):
        assert name in detected and name in detected["by_condition"]["night"]
    assert detected["by_condition"]["day"]["latency_ms"]["p95"] > 0
    assert list(detected["by_scenario"]) == ["urban_street"]


def test_metrics_by_the_image_modalities_that_show_the_boxes() -> None:
    rig = load_rig(resolve_rig_path("simulation"))
    (drive, frame), *_ = simulate_frames(plan_drives([10_000], 1, 10), rig)
    array = np.zeros((4, 7), np.float32)
    array[:, 3:6] = 1.0
    # Ahead in both images, in the wider camera image only, behind in the fisheye image, in no image.
    array[:, :3] = [[20.0, 0.0, 1.0], [20.0, 13.0, 1.0], [-10.0, 0.0, 1.0], [1.0, 8.0, 1.0]]
    boxes = Boxes3D(0, "base_link", array, np.ones(4, np.float32), np.zeros(4, np.int64))
    coverage = camera_coverage(boxes, frame).tolist()
    assert coverage == ["cameras+thermal", "cameras", "cameras", "none"]
    thermal_frame = frame.select_modalities([Modality.THERMAL])
    assert camera_coverage(boxes, thermal_frame).tolist()[:2] == ["thermal", "none"]
    assert camera_coverage(boxes.select([]), frame).shape == (0,)
    # The labels of all views add up, and perfect boxes have a high AP in every view.
    assert frame.labels is not None
    frame = replace(frame, labels=frame.labels.select(observable_labels(frame.labels)))
    setups = {
        "all": DetectorSetup(LabelDetector()),
        "ultrasonic": DetectorSetup(LabelDetector(), (Modality.ULTRASONIC,)),
    }
    complete, ultrasonic = compare_detectors([(drive, frame)], setups).values()
    for row in (complete, ultrasonic):
        assert sum(part["labels"] for part in row["by_view"].values()) == row["labels"] > 0
    assert {v for v, part in complete["by_view"].items() if part["labels"]} >= {"cameras", "none"}
    classes = [c for part in complete["by_view"].values() for c in part["by_class"].values()]
    assert all(c["ap"] > 0.9 for c in classes if c["labels"])
    assert all(part["map"] == 0.0 for part in ultrasonic["by_view"].values())


def test_unobservable_labels_are_ignored() -> None:
    (drive, frame), *_ = simulate_frames(plan_drives([10_000], 1, 10), small_rig())
    assert frame.labels is not None
    n = len(frame.labels)
    labels = replace(
        frame.labels, num_points=np.zeros(n, np.int64), visibility=np.zeros(n, np.float32)
    )
    setups = {"a": DetectorSetup(LabelDetector())}
    assert compare_detectors([(drive, replace(frame, labels=labels))], setups)["a"]["labels"] == 0
    with pytest.raises(ValueError, match="no labels"):
        compare_detectors([(drive, replace(frame, labels=None))], setups)


def test_subsets_of_modalities_that_can_classify_objects() -> None:
    names = list(modality_subsets(load_rig(resolve_rig_path("simulation"))))
    assert names[0] == "lidar+cameras+thermal+ultrasonic" and len(names) == 14
    assert {"lidar", "cameras", "thermal", "thermal+ultrasonic"} <= set(names)
    assert "ultrasonic" not in names
    assert list(modality_subsets(small_rig())) == ["lidar+ultrasonic", "lidar"]


def test_ablation_and_subsets_commands_write_their_results(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rig, out = tmp_path / "rig.yaml", tmp_path / "r.json"
    rig.write_text(dump_rig(small_rig()))
    common = ["--seeds", "10000..10000", "--frames-per-seed", "1", "--rig", str(rig)]
    common += ["--json", str(out), "--max-range", "35"]
    rows = ["--row", "one=geometric", "--row", "two=geometric"]
    assert main(["evaluate", "ablation", *common, *rows]) == 0
    result = json.loads(out.read_text())
    assert result["frames"] == 2 and list(result["rows"]) == ["one", "two"]
    one, two = result["rows"].values()
    assert {"map", "by_class", "by_distance", "latency_ms"} <= set(one)
    assert set(one["by_condition"]) == {"day", "night"}
    assert one["map"] == two["map"] and list(one["by_distance"])[-1] == "30-35"
    assert main(["evaluate", "subsets", *common, "--detector", "geometric"]) == 0
    assert set(json.loads(out.read_text())["rows"]) == {"lidar+ultrasonic", "lidar"}
    capsys.readouterr()


def test_geometric_check_can_be_left_out_of_the_comparison(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rig, out = tmp_path / "rig.yaml", tmp_path / "r.json"
    rig.write_text(dump_rig(small_rig()))
    opened: list[bool] = []

    def open_without_networks(name: str, config: PipelineConfig) -> LabelDetector:
        opened.append(config.fusion.geometric_check)
        return LabelDetector()

    monkeypatch.setattr(
        "multimodal_perception.pipeline_builder.open_detector", open_without_networks
    )
    common = ["--seeds", "10000", "--frames-per-seed", "1", "--rig", str(rig), "--json", str(out)]
    subsets = ["subsets", "--lidar-only-detector", "bev_fusion", "--image-detector", "none"]
    for command in (["ablation", "--row", "one=detector"], subsets):
        for option, check in (([], True), (["--without-geometric-check"], False)):
            assert main(["evaluate", *command, *common, *option]) == 0
            assert set(opened) == {check}, command
            assert json.loads(out.read_text())["geometric_check"] is check
            opened.clear()


def test_subsets_without_lidar_use_ground_projection_of_image_boxes(tmp_path: Path) -> None:
    rig, out = tmp_path / "rig.yaml", tmp_path / "r.json"
    small = small_rig()
    front = load_rig(resolve_rig_path("simulation")).sensors["camera_front"]
    rig.write_text(dump_rig(replace(small, sensors={**small.sensors, "camera_front": front})))
    common = ["--seeds", "10000..10000", "--frames-per-seed", "2", "--rig", str(rig)]
    common += ["--json", str(out), "--max-range", "35", "--detector", "geometric"]
    assert main(["evaluate", "subsets", *common]) == 0
    rows = json.loads(out.read_text())["rows"]
    assert list(rows)[-1] == "cameras, projected image boxes" and len(rows) == 7
    assert rows["cameras"]["map"] == 0.0  # the geometric detector needs points
    assert rows["cameras, projected image boxes"]["by_class"]["car"]["ap"] > 0.02
    assert main(["evaluate", "subsets", *common, "--image-detector", "none"]) == 0
    assert len(json.loads(out.read_text())["rows"]) == 6


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["subsets", "--image-detector", "no_such_model"], "no_such_model"),
        (["ablation", "--seeds", "5..1"], "A..B"),
        (["ablation", "--frames-per-seed", "0"], "--frames-per-seed: allowed: an integer, 1 to"),
        (["ablation", "--max-range", "0"], "--max-range"),
        (["ablation", "--row", "geometric"], "NAME=DETECTOR"),
        (["ablation", "--row", "a=geometric", "--row", "a=geometric"], "twice"),
        (["subsets", "--detector", "magic"], "geometric"),
        (["subsets", "--rig", "no_such_rig"], "no_such_rig"),
    ],
)
def test_invalid_arguments_are_reported(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["evaluate", *arguments]) == 2
    assert message in capsys.readouterr().err
