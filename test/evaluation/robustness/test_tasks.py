"""Runs of the tasks: independence of earlier runs, past sweeps, and the sensors that a task uses."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest

from multimodal_perception.configuration import UserError
from multimodal_perception.evaluation.robustness.drive import DriveSource, RobustnessDrive
from multimodal_perception.evaluation.robustness.study import (
    Study,
    agreement,
    clean_outputs,
    run_corruption,
)
from multimodal_perception.evaluation.robustness.tasks import (
    RunFrame,
    TaskOutput,
    TaskRunner,
    shift_time,
)
from multimodal_perception.frame import Boxes3D, Modality, SensorFrame
from multimodal_perception.images.image_quality import ImageQualityMonitor
from multimodal_perception.pipeline import Pipeline
from multimodal_perception.pointcloud.ground_segmentation import Cloud, segment_ground
from multimodal_perception.rig import Rig, parse_rig
from multimodal_perception.sensor_use import SensorUse, of_modalities
from multimodal_perception.tracking import Tracker
from test.evaluation.robustness.frames import PERIOD_NS, street_frame


@dataclass
class SweepDetector:
    """Finds one car, with a score that is the number of the frame's points divided by 10 000."""

    name: str = "sweeps"
    uses_proposals: bool = False
    uses_masks: bool = False
    counts: dict[str, int] = field(default_factory=dict)
    past: list[SensorFrame] = field(default_factory=list)
    inputs: list[SensorFrame] = field(default_factory=list)
    past_of_inputs: list[int] = field(default_factory=list)

    def prepare(self, frame: SensorFrame) -> None: ...

    def sensor_use(self, rig: Rig) -> SensorUse:
        return SensorUse(of_modalities(rig, Modality.LIDAR))

    def add_past_sweep(self, frame: SensorFrame, cloud: Cloud) -> None:
        self.past.append(frame)

    def clear_past_sweeps(self) -> None:
        self.past = []

    def detect(
        self, frame: SensorFrame, cloud: Cloud, proposals: Any = None, image_results: Any = None
    ) -> Boxes3D:
        self.inputs.append(frame)
        self.past_of_inputs.append(len(self.past))
        box = np.array([[10, 0, 1, 4, 2, 1.5, 0]], np.float32)
        score = np.array([min(len(cloud.points) / 1e4, 1.0)], np.float32)
        return Boxes3D(frame.stamp_ns, frame.base_frame, box, score, np.ones(1, np.int64))


class Street:
    """Twenty frames of a street as a dataset."""

    name = "street"
    rig = parse_rig(
        {
            "name": "street",
            "sensors": {
                "lidar": {"modality": "lidar", "topic": "/l", "frame_id": "l"},
                "camera": {
                    "modality": "camera",
                    "topic": "/c",
                    "camera_info_topic": "/i",
                    "frame_id": "c",
                },
            },
        },
        "test",
    )

    def __len__(self) -> int:
        return 20

    def __getitem__(self, index: int) -> SensorFrame:
        return street_frame(index)


def runner(detector: Any, tracker: Any = None) -> TaskRunner:
    def no_boxes(boxes2d: Any, frame: SensorFrame, cloud: Cloud) -> Boxes3D:
        return Boxes3D.empty(frame.stamp_ns, frame.base_frame)

    pipeline = Pipeline(detector, segment_ground, no_boxes, ImageQualityMonitor(), tracker=tracker)
    return TaskRunner(pipeline, ["detection"], None)


def test_a_run_does_not_depend_on_the_runs_before_it() -> None:
    detector = SweepDetector()
    tasks = runner(detector, Tracker())
    frames = [RunFrame(street_frame(i)) for i in (10, 11)]
    first, second = tasks.run(frames), tasks.run(frames)
    for a, b in zip(first, second, strict=True):
        assert a.boxes is not None and b.boxes is not None
        assert np.array_equal(a.boxes.boxes, b.boxes.boxes)
        assert np.array_equal(a.boxes.track_ids, b.boxes.track_ids)  # type: ignore[arg-type]
    stamps = [f.stamp_ns for f in detector.inputs]
    # Within a run the stamps keep their distances; the second run is an hour earlier.
    assert stamps[1] - stamps[0] == stamps[3] - stamps[2] == PERIOD_NS and stamps[2] < stamps[0]
    assert tasks.seconds > 0.0


def test_all_stamps_of_a_frame_are_moved_together() -> None:
    frame = street_frame(3)
    moved = shift_time(frame, 5 * PERIOD_NS)
    assert moved.stamp_ns == 8 * PERIOD_NS
    assert {r.stamp_ns for r in moved.readings.values()} == {8 * PERIOD_NS}
    assert moved.readings.keys() == frame.readings.keys()


def test_detectors_with_past_sweeps_get_corrupted_past_sweeps() -> None:
    detector = SweepDetector()
    tasks = runner(detector)
    drive = RobustnessDrive(DriveSource("street", frames=2, interval=4), Street())
    assert drive.indices == [10, 14]
    clean = clean_outputs(drive, tasks)
    assert detector.past_of_inputs == [5, 5]
    study = Study("corruption", "point_drop", "lidar", ("lidar",), (1, 5), "", ("detection",))
    result = run_corruption(drive, tasks, study, clean)
    sizes = [len(f.lidars["lidar"].points) for f in detector.past]
    assert len(sizes) == 5 and max(sizes) < 0.1 * len(street_frame().lidars["lidar"].points)
    assert [s.severity for s in result.settings] == [1, 5]
    assert [s.frames for s in result.settings] == [2, 2]
    assert result.settings[1].labelled == {"detection": False}
    assert result.picture[:2] == b"\xff\xd8"  # a JPEG
    # A car with a score below 0.3 is no decision, so nothing changes.
    assert result.settings[1].decisions["detection"].total == 0


def test_evaluated_frames_leave_room_for_old_data_where_there_are_enough() -> None:
    for frames, interval, expected in (
        (2, 4, [10, 14]),
        (4, 5, [4, 9, 14, 19]),
        (40, 1, list(range(20))),
    ):
        source = DriveSource("street", frames=frames, interval=interval)
        assert RobustnessDrive(source, Street()).indices == expected


def test_a_corruption_that_the_data_does_not_allow_gives_its_reason() -> None:
    tasks = runner(SweepDetector())
    drive = RobustnessDrive(DriveSource("street", frames=1), Street())
    study = Study(
        "corruption", "adversarial_patch", "camera", ("camera",), (1,), "", ("detection",)
    )
    result = run_corruption(drive, tasks, study, clean_outputs(drive, tasks))
    assert not result.settings and "simulated drives" in result.reason


def test_only_sensors_of_the_task_are_used() -> None:
    tasks = runner(SweepDetector())
    assert tasks.used_sensors("detection", Street.rig) == {"lidar"}
    with pytest.raises(UserError, match="--tasks: allowed: detection, segmentation, occupancy"):
        TaskRunner(tasks.pipeline, ["parking"], None)
    with pytest.raises(UserError, match="occupancy: none"):
        TaskRunner(tasks.pipeline, ["occupancy"], None)


def test_what_a_search_lowers_is_the_support_of_the_clean_objects() -> None:
    def cars(*rows: tuple[float, float]) -> TaskOutput:
        array = np.array([(x, 0, 1, 4, 2, 1.5, 0) for x, _ in rows], np.float32).reshape(-1, 7)
        scores = np.array([s for _, s in rows], np.float32)
        return TaskOutput(Boxes3D(0, "base_link", array, scores, np.ones(len(rows), np.int64)))

    clean = cars((10, 0.8), (20, 0.4), (30, 0.1))
    assert agreement(clean, clean, "detection") == pytest.approx(1.0)
    assert agreement(cars((11, 0.2), (20.5, 0.4)), clean, "detection") == pytest.approx(0.5)
    assert agreement(cars((15, 1.0)), clean, "detection") == 0.0
