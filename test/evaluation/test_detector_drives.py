"""Detectors compared on simulated drives: the drives, the sensors taken away, and the figures."""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pytest

from multimodal_perception.cli.main import main
from multimodal_perception.evaluation.breakdown import counting
from multimodal_perception.evaluation.detector_drives import (
    Contestant,
    compare,
    driven,
    drives,
    seeing_subsets,
    views,
)
from multimodal_perception.frame import Boxes3D, Modality, SensorFrame
from multimodal_perception.pointcloud.ground_segmentation import Cloud
from multimodal_perception.rig import Rig, dump_rig, load_rig, parse_rig, rig_path


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
class Knowing:
    """Says the labels that it is told of, where it has the LiDAR; remembers what it was given."""

    name: str = "knowing"
    given: list[SensorFrame] = field(default_factory=list)

    def detect(self, frame: SensorFrame, cloud: Cloud) -> Boxes3D:
        self.given.append(frame)
        if not frame.lidars or frame.labels is None:
            return Boxes3D.empty(frame.stamp_ns, frame.base_frame)
        return frame.labels


def test_every_seed_is_driven_by_day_and_by_night() -> None:
    chosen = drives(range(10_000, 10_004), frames=3, every=10)
    assert len(chosen) == 8 and len({d.scenario for d in chosen}) == 4
    assert [d.condition for d in chosen[:2]] == ["day", "night"]
    assert chosen[0].scenario == chosen[1].scenario and chosen[0].seed == chosen[1].seed
    assert list(chosen[0].indices) == [10, 20, 30]
    assert chosen == drives(range(10_000, 10_004), frames=3, every=10)
    rig = small_rig()
    day, night = (d.plan(rig).simulation() for d in chosen[:2])
    assert night.conditions.night and not day.conditions.night


def test_all_contestants_see_the_same_frames_with_their_own_sensors() -> None:
    frames = list(driven(drives([10_000], 2, 10), small_rig()))
    assert [d.condition for d, _ in frames] == ["day", "day", "night", "night"]
    assert all(f.labels is not None and f.labels.visibility is not None for _, f in frames)
    knowing, deaf = Knowing(), Knowing()
    subsets = (Modality.ULTRASONIC,)
    figures = compare(frames, {"all": Contestant(knowing), "deaf": Contestant(deaf, subsets)})
    stamps = [f.stamp_ns for _, f in frames]
    # The first one twice: it is not timed while kernels compile.
    assert [f.stamp_ns for f in knowing.given] == stamps[:1] + stamps
    assert [f.stamp_ns for f in knowing.given] == [f.stamp_ns for f in deaf.given]
    assert all(not f.lidars and f.ultrasonics for f in deaf.given)
    assert deaf.given[0].missing == {"lidar"}
    good, none = figures["all"], figures["deaf"]
    assert good["labels"] == none["labels"] > 0
    assert good["map"] > 0.5 and none["map"] == 0.0
    for name in ("map", "nds", "by_class", "by_distance", "latency_ms"):
        assert name in good and name in good["by_condition"]["night"]
    assert good["by_condition"]["day"]["latency_ms"]["p95"] > 0
    assert list(good["by_scenario"]) == ["urban_street"]


def test_figures_by_the_images_that_see_there() -> None:
    rig = load_rig(rig_path("simulation"))
    (drive, frame), *_ = driven(drives([10_000], 1, 10), rig)
    places = np.zeros((4, 7), np.float32)
    places[:, 3:6] = 1.0
    # Ahead; where the camera's wider image alone has it; behind, in the fisheye; beside the vehicle.
    places[:, :3] = [[20.0, 0.0, 1.0], [20.0, 13.0, 1.0], [-10.0, 0.0, 1.0], [1.0, 8.0, 1.0]]
    boxes = Boxes3D(0, "base_link", places, np.ones(4, np.float32), np.zeros(4, np.int64))
    assert views(boxes, frame).tolist() == ["cameras+thermal", "cameras", "cameras", "none"]
    assert views(boxes, frame.only([Modality.THERMAL])).tolist()[:2] == ["thermal", "none"]
    assert views(boxes.select([]), frame).shape == (0,)
    # What each view has adds up, and who is right everywhere is so in each of them.
    assert frame.labels is not None
    frame = replace(frame, labels=frame.labels.select(counting(frame.labels)))
    both = {"knowing": Contestant(Knowing()), "deaf": Contestant(Knowing(), (Modality.ULTRASONIC,))}
    knowing, deaf = compare([(drive, frame)], both).values()
    for row in (knowing, deaf):
        assert sum(part["labels"] for part in row["by_view"].values()) == row["labels"] > 0
    assert {v for v, part in knowing["by_view"].items() if part["labels"]} >= {"cameras", "none"}
    found = [c for part in knowing["by_view"].values() for c in part["by_class"].values()]
    assert all(c["ap"] > 0.9 for c in found if c["labels"])
    assert all(part["map"] == 0.0 for part in deaf["by_view"].values())


def test_labels_that_nobody_can_see_are_not_asked_for() -> None:
    (drive, frame), *_ = driven(drives([10_000], 1, 10), small_rig())
    assert frame.labels is not None
    n = len(frame.labels)
    unseen = replace(
        frame.labels, num_points=np.zeros(n, np.int64), visibility=np.zeros(n, np.float32)
    )
    hidden = replace(frame, labels=unseen)
    assert compare([(drive, hidden)], {"a": Contestant(Knowing())})["a"]["labels"] == 0
    with pytest.raises(ValueError, match="no labels"):
        compare([(drive, replace(frame, labels=None))], {"a": Contestant(Knowing())})


def test_subsets_that_can_see() -> None:
    names = list(seeing_subsets(load_rig(rig_path("simulation"))))
    assert names[0] == "lidar+cameras+thermal+ultrasonic" and len(names) == 14
    assert {"lidar", "cameras", "thermal", "thermal+ultrasonic"} <= set(names)
    assert "ultrasonic" not in names
    assert list(seeing_subsets(small_rig())) == ["lidar+ultrasonic", "lidar"]


def test_the_commands(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
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


def test_without_lidar_boxes_in_images_are_placed_on_the_ground(tmp_path: Path) -> None:
    rig, out = tmp_path / "rig.yaml", tmp_path / "r.json"
    small = small_rig()
    front = load_rig(rig_path("simulation")).sensors["camera_front"]
    rig.write_text(dump_rig(replace(small, sensors={**small.sensors, "camera_front": front})))
    common = ["--seeds", "10000..10000", "--frames-per-seed", "2", "--rig", str(rig)]
    common += ["--json", str(out), "--max-range", "35", "--detector", "geometric"]
    assert main(["evaluate", "subsets", *common]) == 0
    rows = json.loads(out.read_text())["rows"]
    assert list(rows)[-1] == "cameras, boxes in images placed" and len(rows) == 7
    assert rows["cameras"]["map"] == 0.0  # the geometric detector knows points alone
    assert rows["cameras, boxes in images placed"]["by_class"]["car"]["ap"] > 0.02
    assert main(["evaluate", "subsets", *common, "--image-detector", "none"]) == 0
    assert len(json.loads(out.read_text())["rows"]) == 6


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["subsets", "--image-detector", "no_such_model"], "no_such_model"),
        (["ablation", "--seeds", "5..1"], "A..B"),
        (["ablation", "--frames-per-seed", "0"], "--frames-per-seed: allowed: 1 to 1000"),
        (["ablation", "--max-range", "0"], "--max-range"),
        (["ablation", "--row", "geometric"], "NAME=DETECTOR"),
        (["ablation", "--row", "a=geometric", "--row", "a=geometric"], "twice"),
        (["subsets", "--detector", "magic"], "geometric"),
        (["subsets", "--rig", "no_such_rig"], "no_such_rig"),
    ],
)
def test_mistakes_are_told(
    arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["evaluate", *arguments]) == 2
    assert words in capsys.readouterr().err
