"""Comparison of detectors with cameras turned off, on several rigs and with past sweeps."""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pytest

from multimodal_perception.cli.main import main
from multimodal_perception.evaluation.detections import centres_in_images
from multimodal_perception.evaluation.detector_drives import (
    PAST_SWEEPS,
    DetectorSetup,
    PastSweeps,
    camera_sectors,
    compare_detectors,
    plan_drives,
    simulate_frames,
)
from multimodal_perception.frame import Boxes3D, SensorFrame
from multimodal_perception.pipeline_builder import PipelineConfig
from multimodal_perception.pointcloud.ground_segmentation import Cloud
from multimodal_perception.rig import dump_rig, load_rig, resolve_rig_path
from multimodal_perception.stages import ImageResults
from test.evaluation.test_detector_drives import LabelDetector, small_rig

CAMERAS = ("camera_front", "camera_rear")


@dataclass
class ImageLabelDetector(LabelDetector):
    """Returns the labels that a camera of the frame shows."""

    def detect(
        self,
        frame: SensorFrame,
        cloud: Cloud,
        proposals: Boxes3D | None = None,
        image_results: ImageResults | None = None,
    ) -> Boxes3D:
        self.inputs.append(frame)
        assert frame.labels is not None
        return frame.labels.select(centres_in_images(frame.labels, frame, frame.cameras))


@dataclass
class RememberingDetector(LabelDetector):
    """Records which past sweeps it has when it detects."""

    past: list[int] = field(default_factory=list)
    used: list[list[int]] = field(default_factory=list)

    def add_past_sweep(self, frame: SensorFrame, cloud: Cloud) -> None:
        assert not frame.cameras and len(cloud.points)
        self.past.append(frame.stamp_ns)

    def clear_past_sweeps(self) -> None:
        self.past.clear()

    def detect(
        self,
        frame: SensorFrame,
        cloud: Cloud,
        proposals: Boxes3D | None = None,
        image_results: ImageResults | None = None,
    ) -> Boxes3D:
        self.used.append(list(self.past))
        self.past.append(frame.stamp_ns)
        return super().detect(frame, cloud, proposals, image_results)


def two_camera_rig(folder: Path) -> Path:
    """A rig file with a LiDAR and two cameras."""
    cameras = load_rig(resolve_rig_path("simulation")).sensors
    small = small_rig()
    path = folder / "rig.yaml"
    sensors = {**small.sensors, **{name: cameras[name] for name in CAMERAS}}
    path.write_text(dump_rig(replace(small, sensors=sensors)))
    return path


def test_sectors_are_those_of_the_first_camera_that_shows_the_centre(tmp_path: Path) -> None:
    rig = load_rig(two_camera_rig(tmp_path))
    (drive, frame), *_ = simulate_frames(plan_drives([10_000], 1, 10), rig)
    array = np.ones((3, 7), np.float32)
    array[:, :2] = [[20.0, 0.0], [-10.0, 0.0], [0.5, 9.0]]  # ahead, behind, beside
    boxes = Boxes3D(0, "base_link", array, np.ones(3, np.float32), np.zeros(3, np.int64))
    on, off = {"on": CAMERAS[:1], "off": CAMERAS[1:]}, {"off": CAMERAS, "on": CAMERAS[:1]}
    assert camera_sectors(boxes, frame, on).tolist() == ["on", "off", "none"]
    assert camera_sectors(boxes, frame, off).tolist() == ["off", "off", "none"]
    setups = {
        "all": DetectorSetup(ImageLabelDetector()),
        "off": DetectorSetup(ImageLabelDetector(), sensors_off=frozenset(CAMERAS[1:])),
    }
    rows = compare_detectors([(drive, frame)], setups, sectors=on)
    assert rows["all"]["by_sector"]["off"]["map"] > 0.7
    assert rows["off"]["by_sector"]["off"]["boxes"] == 0
    on_all, on_off = (rows[name]["by_sector"]["on"] for name in ("all", "off"))
    assert on_off["map"] == on_all["map"] > 0.7 and on_off["boxes"] == on_all["boxes"]
    received = setups["off"].detector.inputs[-1]  # type: ignore[attr-defined]
    assert set(received.cameras) == {CAMERAS[0]} and set(received.lidars) == {"lidar"}
    assert CAMERAS[1] in received.missing


def test_the_recall_of_objects_in_images_counts_what_the_cameras_show(tmp_path: Path) -> None:
    rig = load_rig(two_camera_rig(tmp_path))
    frames = list(simulate_frames(plan_drives([10_000], 1, 10, ["day"]), rig))
    setups = {
        "all": DetectorSetup(ImageLabelDetector()),
        "nothing": DetectorSetup(ImageLabelDetector(), sensors_off=frozenset(CAMERAS)),
    }
    rows = compare_detectors(frames, setups)
    complete, empty = (rows[name]["images_within_30m"] for name in setups)
    assert complete["labels"] == empty["labels"] > 0
    assert complete["recall"] == 1.0 and empty["recall"] == 0.0


def test_a_detector_with_memory_gets_the_sweeps_before_each_evaluated_frame() -> None:
    rig = small_rig()
    drives = plan_drives([10_000], 2, 6, ["day"])
    simulation = drives[0].plan(rig).simulation()
    first, second = RememberingDetector(), RememberingDetector()
    setups = {"first": DetectorSetup(first), "second": DetectorSetup(second)}
    compare_detectors(simulate_frames(drives, rig), setups, past_sweeps=PastSweeps(rig))
    expected = [
        [simulation.stamp_ns(k) for k in range(index - PAST_SWEEPS, index)]
        for index in drives[0].indices
    ]
    # The first frame is processed twice, and setups do not affect each other.
    assert first.used == second.used == [expected[0], *expected]
    alone = RememberingDetector()
    compare_detectors(simulate_frames(drives, rig), {"alone": DetectorSetup(alone)})
    assert alone.used == [[], [], []]


def test_past_sweeps_equal_those_of_the_complete_simulation(tmp_path: Path) -> None:
    rig = load_rig(two_camera_rig(tmp_path))
    (drive,) = plan_drives([10_000], 1, 6, ["day"])
    simulation = drive.plan(rig).simulation()
    past = PastSweeps(rig)(drive, simulation[6])
    assert len(past) == PAST_SWEEPS and not past[-1].cameras
    expected = simulation[5]
    assert past[-1].stamp_ns == expected.stamp_ns
    np.testing.assert_array_equal(past[-1].points_in_base(), expected.points_in_base())
    np.testing.assert_array_equal(past[-1].odom_from_base, expected.odom_from_base)


def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *words: str) -> dict:  # type: ignore[type-arg]
    def open_detector(name: str, config: PipelineConfig) -> ImageLabelDetector:
        return ImageLabelDetector()

    monkeypatch.setattr("multimodal_perception.pipeline_builder.open_detector", open_detector)
    out = tmp_path / "result.json"
    common = ["--frames-per-seed", "1", "--json", str(out)]
    assert main(["evaluate", *words, *common]) == 0
    return dict(json.loads(out.read_text()))


def test_the_command_cameras_turns_cameras_off(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    rig = str(two_camera_rig(tmp_path))
    options = ["--seeds", "10000", "--rig", rig, "--off", "camera_rear"]
    result = run(tmp_path, monkeypatch, "cameras", *options)
    assert list(result["rows"]) == [
        *("all cameras", "1 off", "all cameras, without LiDAR", "1 off, without LiDAR"),
    ]
    for suffix in ("", ", without LiDAR"):
        complete, off = (
            result["rows"][f"{name}{suffix}"]["by_sector"] for name in ("all cameras", "1 off")
        )
        assert complete["on"]["map"] == off["on"]["map"] > 0.7
        assert complete["off"]["map"] > 0.7 and off["off"]["map"] == 0.0
    assert result["cameras_off"] == ["camera_rear"]
    for names, message in (
        (["radar"], "--off: allowed: camera_front"),
        (list(CAMERAS), "leave a camera on"),
    ):
        assert main(["evaluate", "cameras", "--rig", rig, "--off", *names]) == 2
        assert message in capsys.readouterr().err


def test_the_command_rigs_compares_rigs_and_lidars(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    rig = str(two_camera_rig(tmp_path))
    options = [
        "--seeds",
        "10000",
        "--rigs",
        "camera_thermal",
        "--rig",
        rig,
        "--lidars",
        "vlp16",
        "hdl32",
    ]
    rows = run(tmp_path, monkeypatch, "rigs", *options)["rows"]
    parts = ("all sensors", "LiDAR", "images")
    expected = [f"{rig}, {model}: {part}" for model in ("vlp16", "hdl32") for part in parts]
    assert list(rows) == ["camera_thermal: all sensors", *expected]
    assert all(rows[e]["map"] == 0.0 for e in expected if e.endswith("LiDAR"))
    assert all(rows[e]["map"] > 0.0 for e in expected if e.endswith("images"))
    assert main(["evaluate", "rigs", "--rigs", "kitti_like", "kitti_like"]) == 2
    assert "allowed once" in capsys.readouterr().err


def test_several_ranges_of_seeds_give_mean_and_spread(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    rig = str(two_camera_rig(tmp_path))
    options = [
        "--seeds",
        "10000",
        "10001",
        "--rig",
        rig,
        "--row",
        "a=detector",
        "--class-set",
        "ten",
        "six",
    ]
    result = run(tmp_path, monkeypatch, "ablation", *options)
    metrics = result["rows"]["a"]
    maps = metrics["map_over_sets"]["maps"]
    assert set(maps) == {"10000", "10001"} and result["class_set"] == "ten"
    assert metrics["map_over_sets"]["mean"] == pytest.approx(np.mean(list(maps.values())))
    assert metrics["map_over_sets"]["deviation"] == pytest.approx(
        np.std(list(maps.values()), ddof=1)
    )
    assert set(metrics["class_sets"]["six"]["by_class"]) == {
        *("car", "truck", "bus", "pedestrian", "cyclist"),
    }
    assert "class set six" in capsys.readouterr().out
    assert main(["evaluate", "ablation", "--seeds", "5..9", "9..12"]) == 2
    assert "--seeds 5..9 9..12: the ranges overlap" in capsys.readouterr().err
    assert main(["evaluate", "ablation", "--classes", "tram"]) == 2
    assert "--classes: allowed: car, truck" in capsys.readouterr().err
