"""Frames and results as Rerun entities: positions, colours, projections and changes of state."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rerun

from multimodal_perception.datasets.synthetic import SyntheticDataset
from multimodal_perception.frame import Boxes3D, CameraImage, ThermalImage, UltrasonicReading
from multimodal_perception.frame import SensorFrame as Frame
from multimodal_perception.geometry.cameras import CameraModel
from multimodal_perception.perception import (
    Boxes2D,
    Level,
    OccupancyGrid,
    Perception,
    SegmentationMask,
    SensorHealth,
)
from multimodal_perception.rig import Rig, parse_rig
from multimodal_perception.visualization.recording import write_recording
from multimodal_perception.visualization.rerun_log import RerunLog, frame_health
from test.test_sensor_reliability import boxes_of
from test.visualization.rrd_entities import entities

INFO = {"camera_info_topic": "info"}
RIG: Rig = parse_rig(
    {
        "name": "view",
        "sensors": {
            "points": {"modality": "lidar", "topic": "points", "frame_id": "lidar"},
            "front": {"modality": "camera", "topic": "front", "frame_id": "front", **INFO},
            "heat": {"modality": "thermal", "topic": "heat", "frame_id": "heat", **INFO},
            "sonar": {"modality": "ultrasonic", "topic": "sonar", "frame_id": "sonar"},
        },
    },
    "test",
)
# Optical frame of a camera at the origin that faces forward.
FORWARD = np.array([[0, 0, 1, 0], [-1, 0, 0, 0], [0, -1, 0, 0], [0, 0, 0, 1]], np.float64)


class Recorder:
    """A stream that keeps the last archetype by entity."""

    def __init__(self) -> None:
        self.logged: dict[str, Any] = {}
        self.static: dict[str, Any] = {}
        self.history: list[str] = []

    def set_time(self, timeline: str, **value: Any) -> None:
        assert timeline == "stamp" and value

    def log(self, entity: str | list[str], archetype: Any, static: bool = False) -> None:
        path = entity if isinstance(entity, str) else "/".join(entity)
        (self.static if static else self.logged)[path] = archetype
        self.history.append(path)


def values(column: Any) -> Any:
    return column.as_arrow_array().to_pylist()


@pytest.fixture
def log() -> tuple[RerunLog, Recorder]:
    recorder = Recorder()
    return RerunLog(rerun, recorder, RIG), recorder


def frame(**changes: Any) -> Frame:
    model = CameraModel.pinhole(64, 48, 50.0)
    base = Frame(
        1_000_000_000,
        cameras={"front": CameraImage("front", 0, "front", np.zeros((48, 64, 3), np.uint8))},
        thermals={"heat": ThermalImage("heat", 0, "heat", np.full((48, 64), 9, np.uint8))},
        ultrasonics={"sonar": UltrasonicReading("sonar", 0, "sonar", 2.0, 0.2, 5.0, 1.0)},
        base_from_sensor={"front": FORWARD, "heat": FORWARD, "sonar": np.eye(4)},
        intrinsics={"front": model, "heat": model},
        expected=frozenset(RIG.sensors),
    )
    return replace(base, **changes)


def car(x: float, y: float, **optional: Any) -> Boxes3D:
    boxes = np.array([[x, y, 0.0, 4.0, 2.0, 1.5, 0.0]], np.float32)
    one = np.ones(1, np.float32)
    return Boxes3D(1_000_000_000, "base_link", boxes, one, np.ones(1, np.int64), **optional)


def test_the_echo_of_an_ultrasonic_sensor_is_an_arc_at_its_distance(log: Any) -> None:
    writer, recorder = log
    writer.log_frame(frame())
    cone, echo = values(recorder.logged["base_link/ultrasonic/sonar"].strips)
    assert np.linalg.norm(echo, axis=1) == pytest.approx(np.full(13, 2.0), abs=1e-5)
    assert cone[0] == [0, 0, 0]
    silent = UltrasonicReading("sonar", 0, "sonar", np.inf, 0.2, 5.0, 1.0)
    writer.log_frame(frame(ultrasonics={"sonar": silent}))
    (cone,) = values(recorder.logged["base_link/ultrasonic/sonar"].strips)
    assert np.linalg.norm(cone[1:-1], axis=1) == pytest.approx(np.full(13, 5.0), abs=1e-5)


def test_a_box_is_projected_into_every_image_that_shows_it_and_removed_when_it_is_gone(
    log: Any,
) -> None:
    writer, recorder = log
    writer.log_frame(frame())
    writer.log_objects(car(10.0, 1.0, track_ids=np.array([3])))
    for entity in ("base_link/cameras/front/objects", "base_link/thermal/heat/objects"):
        pixels = np.concatenate([np.array(s) for s in values(recorder.logged[entity].strips)])
        # The box reaches from y = 0 to 2 m at x = 8 to 12 m: left of the image's centre.
        assert pixels[:, 0].max() == pytest.approx(31.5, abs=1.0)
        assert pixels[:, 0].min() == pytest.approx(31.5 - 50 * 2 / 8, abs=1.0)
    assert values(recorder.logged["base_link/objects"].labels) == ["car #3 1.00"]
    writer.log_objects(car(-10.0, 0.0))
    assert values(recorder.logged["base_link/cameras/front/objects"].strips) == []
    writer.log_objects(Boxes3D.empty(1_100_000_000, "base_link"))
    assert values(recorder.logged["base_link/objects"].centers) == []


def test_only_moving_objects_have_an_arrow(log: Any) -> None:
    writer, recorder = log
    for vy, expected in ((3.0, [[0.0, 3.0, 0.0]]), (0.1, []), (np.nan, [])):
        writer.log_velocities(car(5.0, 0.0, velocities=np.array([[0.0, vy]], np.float32)))
        assert values(recorder.logged["base_link/velocities"].vectors) == expected


def test_an_occupied_cell_is_at_its_position_in_the_image_and_in_3d(log: Any) -> None:
    writer, recorder = log
    free, occupied = np.zeros((20, 40), np.float32), np.zeros((20, 40), np.float32)
    occupied[12, 30] = 0.9  # x = 30.5 - 20, y = 12.5 - 10
    grid = OccupancyGrid(0, "base_link", 1.0, (-20.0, -10.0), free, occupied)
    writer.log_occupancy(grid, car(10.5, 2.5))
    (cell,) = values(recorder.logged["base_link/occupied_cells"].positions)
    assert cell == pytest.approx([10.5, 2.5, 0.0])
    (outline,) = values(recorder.logged["occupancy/objects"].strips)
    image = recorder.logged["occupancy/grid"]
    pixels = np.frombuffer(bytes(values(image.buffer)[0]), np.uint8).reshape(40, 20, 3)
    row, column = np.argwhere(pixels.sum(axis=2) == pixels.sum(axis=2).max())[0]
    assert np.mean(outline[:4], axis=0) == pytest.approx([column + 0.5, row + 0.5])


def test_a_grid_in_the_odometry_frame_is_moved_to_the_vehicle(log: Any) -> None:
    writer, recorder = log
    occupied = np.zeros((10, 10), np.float32)
    occupied[5, 5] = 0.9
    grid = OccupancyGrid(0, "odom", 1.0, (100.0, 50.0), np.zeros((10, 10), np.float32), occupied)
    writer.log_occupancy(grid)
    assert "base_link/occupied_cells" not in recorder.logged
    pose = np.eye(4)
    pose[:2, 3] = 100.0, 50.0
    writer.log_occupancy(grid, None, pose)
    (cell,) = values(recorder.logged["base_link/occupied_cells"].positions)
    assert cell == pytest.approx([5.5, 5.5, 0.0])


def test_masks_have_the_size_of_their_image_and_names_of_their_classes(log: Any) -> None:
    writer, recorder = log
    writer.log_frame(frame())
    labels = np.repeat(np.array([[0, 1]], np.uint8), 2, axis=0)
    writer.log_mask(SegmentationMask("heat", 0, labels, ("road", "person")))
    image = recorder.logged["base_link/thermal/heat/mask"]
    pixels = np.frombuffer(bytes(values(image.buffer)[0]), np.uint8).reshape(48, 64)
    assert (pixels[:, :32] == 0).all() and (pixels[:, 32:] == 1).all()
    assert "base_link/thermal/heat/mask" in recorder.static
    boxes = np.array([[1, 2, 11, 22]], np.float32)
    writer.log_boxes2d(
        Boxes2D(
            "heat", 0, boxes, np.ones(1, np.float32), np.zeros(1, np.int64), ("person",), (64, 48)
        )
    )
    logged = recorder.logged["base_link/thermal/heat/boxes2d"]
    assert values(logged.centers) == [[6.0, 12.0]]
    assert values(logged.half_sizes) == [[5.0, 10.0]]


def test_the_readings_of_a_failed_sensor_are_removed_and_changes_are_reported_once(
    log: Any,
) -> None:
    writer, recorder = log
    writer.log_frame(frame())
    states = [(Level.OK, "ok"), (Level.ERROR, "no message"), (Level.ERROR, "no message")]
    for i, (level, message) in enumerate(states):
        writer.log_health({"front": SensorHealth("front", level, message)}, i)
    assert recorder.history.count("log") == 1
    assert isinstance(recorder.logged["base_link/cameras/front"], rerun.Clear)
    assert values(recorder.logged["health/front/level"].scalars) == [2.0]
    assert "ERROR: no message" in values(recorder.logged["health_table"].text)[0]


def test_health_of_a_recorded_frame_names_missing_and_unusable_sensors() -> None:
    incomplete = frame(thermals={}, dropped=frozenset({"points"}))
    perception = Perception(0, "base_link", Boxes3D.empty(0, "base_link"))
    health = frame_health(incomplete, perception)
    assert {name for name, h in health.items() if h.level is Level.OK} == {"front", "sonar"}
    assert health["heat"].message == "no reading"
    assert health["points"].message == "the reading could not be used"


def test_the_opinions_of_the_sensors_are_a_table_with_a_row_for_each_object(log: Any) -> None:
    rerun_log, recorder = log
    boxes = boxes_of(0, wrong=["left"], unobserved=["thermal"])
    rerun_log.log_result(frame(), Perception(boxes.stamp_ns, "base_link", boxes))
    (text,) = values(recorder.logged["evidence_table"].text)
    head, _, first, *others = text.splitlines()
    names = [cell.strip() for cell in head.strip("|").split("|")]
    row = dict(zip(names, (cell.strip() for cell in first.strip("|").split("|")), strict=True))
    assert len(others) == len(boxes) - 1
    assert row["object"] == "car #0" and row["thermal"] == "-"
    assert float(row["lidar"].split(" / ")[0]) > 0.5 and float(row["conflict"]) > 0.5
    assert row["contradicted by"] == "left" and "lidar" in row["supported by"]
    recorder.logged.clear()
    plain = replace(boxes, evidence=None)
    rerun_log.log_result(frame(), Perception(boxes.stamp_ns, "base_link", plain))
    assert "evidence_table" not in recorder.logged


def test_a_recording_contains_the_results_of_every_frame(tmp_path: Path) -> None:
    dataset = SyntheticDataset(frames=2, rings=16, columns=200)
    boxes = [replace(f.labels, stamp_ns=f.stamp_ns) for f in dataset if f.labels is not None]
    results = [
        (f, Perception(f.stamp_ns, f.base_frame, b, stage_ms={"detect": 1.0}))
        for f, b in zip(dataset, boxes, strict=True)
    ]
    path = tmp_path / "folder" / "a.rrd"
    assert write_recording(path, results, dataset.rig) == 2
    found = entities(path)
    for entity in ("lidar/lidar", "cameras/camera", "objects", "cameras/camera/objects"):
        assert found[f"/base_link/{entity}"] >= 2, found
    assert found["/stage_ms/detect"] == 2


def test_without_rerun_the_error_has_the_command_that_installs_it() -> None:
    code = (
        "import sys; sys.modules['rerun'] = None\n"
        "from multimodal_perception.cli.main import main\n"
        "sys.exit(main(['view', 'synthetic', '--frames', '1']))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode == 2
    assert result.stderr.strip().endswith("pip install rerun-sdk")
    assert len(result.stderr.splitlines()) == 1
