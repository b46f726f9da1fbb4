"""The BEV fusion detector: any subset of sensors, failures, memory, painting, load levels, bad input."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from multimodal_perception.detection.bev_fusion.detector import BevFusionDetector
from multimodal_perception.detection.bev_fusion.fusion_config import FusionConfig
from multimodal_perception.detection.geometric.detector import GeometricDetector
from multimodal_perception.frame import CLASS_NAMES, Boxes3D, SensorFrame
from multimodal_perception.geometry import poses
from multimodal_perception.perception import Level
from multimodal_perception.pointcloud.ground_segmentation import segment_ground
from multimodal_perception.runtime.engine import EngineError
from multimodal_perception.runtime.settings import RuntimeConfig
from multimodal_perception.stages import Detector, ImageResults, LoadAdaptive, UsesPastSweeps
from test.detection.bev_fusion.small_frames import STEP_NS, YAWS, masks, only, rig_frame

RUNTIME = RuntimeConfig(order=("onnxruntime",), device="cpu", threads=1)
SENSORS = (*YAWS, "thermal", "lidar", "ultrasonic")


def open_detector(model: Path, **parameters: object) -> BevFusionDetector:
    values = {"min_score": 0.0, "geometric_check": False, **parameters}
    return BevFusionDetector(FusionConfig(str(model), **values), RUNTIME)  # type: ignore[arg-type]


def detect(
    detector: BevFusionDetector, frame: SensorFrame, results: ImageResults | None = None
) -> Boxes3D:
    return detector.detect(frame, segment_ground(frame), None, results)


def single(
    model: Path, frame: SensorFrame, results: ImageResults | None = None, **parameters: object
) -> Boxes3D:
    """Boxes of a new detector without past sweeps."""
    return detect(open_detector(model, **parameters), frame, results)


def drive_frame(step: int, speed: float = 0.0) -> SensorFrame:
    """A frame without thermal image, whose contrast normalisation depends on earlier frames."""
    return only(rig_frame(step, speed), *YAWS, "lidar", "ultrasonic")


def assert_equal(a: Boxes3D, b: Boxes3D) -> None:
    np.testing.assert_allclose(a.scores, b.scores, atol=1e-4)
    np.testing.assert_allclose(a.boxes, b.boxes, atol=1e-3)


def differ(a: Boxes3D, b: Boxes3D) -> bool:
    n = min(len(a), len(b))
    return len(a) != len(b) or not np.allclose(a.scores[:n], b.scores[:n], atol=1e-4)


@pytest.fixture(scope="module")
def detector(small_model: Path) -> BevFusionDetector:
    return open_detector(small_model)


def test_follows_the_protocols(detector: BevFusionDetector) -> None:
    typed: Detector = detector
    assert typed.name == "fusion" and typed.uses_masks and typed.uses_proposals
    assert isinstance(detector, UsesPastSweeps) and isinstance(detector, LoadAdaptive)


@given(st.sets(st.sampled_from(SENSORS)))
@settings(
    max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_any_subset_of_sensors_gives_finite_boxes(
    detector: BevFusionDetector, names: set[str]
) -> None:
    detector.clear_past_sweeps()
    frame = only(rig_frame(), *names)
    boxes = detect(detector, frame)
    assert not detector.failures
    for values in (boxes.boxes, boxes.scores, boxes.covariances, boxes.velocities):
        assert values is None or np.isfinite(values).all()
    assert (np.diff(boxes.scores) <= 0).all() and (boxes.boxes[:, 3:6] > 0).all()
    if names & {"lidar", *YAWS, "thermal"}:
        assert len(boxes)
        assert boxes.covariances is not None
        assert (np.linalg.eigvalsh(boxes.covariances) > 0).all()
    else:
        assert not len(boxes) and detector.counts["no_exteroceptive_data"]


@pytest.mark.parametrize("name", SENSORS)
def test_every_sensor_has_an_effect(small_model: Path, name: str) -> None:
    frame = rig_frame()
    rest = only(frame, *(n for n in SENSORS if n != name))
    assert differ(single(small_model, frame), single(small_model, rest))
    images = only(frame, *YAWS, "thermal", "ultrasonic")  # without LiDAR
    rest = only(images, *(n for n in SENSORS if n != name))
    assert differ(single(small_model, images), single(small_model, rest)) == (name != "lidar")


def test_order_of_images_does_not_matter(small_model: Path) -> None:
    frame = rig_frame()
    reverse = dataclasses.replace(frame, cameras=dict(reversed(list(frame.cameras.items()))))
    assert_equal(single(small_model, frame), single(small_model, reverse))


def test_image_that_shows_nothing_changes_nothing(small_model: Path) -> None:
    frame = only(rig_frame(), "front", "thermal", "lidar", "ultrasonic")
    up = poses.from_xyz_rpy((0.0, 0.0, 6.0), (0.0, -np.pi / 2, 0.0)) @ poses.from_xyz_rpy(
        (0, 0, 0), (-np.pi / 2, 0, -np.pi / 2)
    )
    more = dataclasses.replace(rig_frame(), base_from_sensor={**frame.base_from_sensor, "left": up})
    more = only(more, "front", "left", "thermal", "lidar", "ultrasonic")
    assert_equal(single(small_model, frame), single(small_model, more))


def test_prepared_images_are_only_used_for_their_own_frame(small_model: Path) -> None:
    first, second = drive_frame(0), drive_frame(1)
    for prepared, detected in ((first, first), (first, second), (second, second)):
        preparing = open_detector(small_model)
        preparing.prepare(prepared)
        assert_equal(detect(preparing, detected), single(small_model, detected))


class Broken:
    """A network that fails."""

    def __init__(self, network) -> None:  # type: ignore[no-untyped-def]
        self.inputs, self.device = network.inputs, network.device

    def run(self, arrays):  # type: ignore[no-untyped-def]
        raise EngineError("out of memory")

    run_many = run


def test_images_whose_network_fails_count_as_missing(small_model: Path) -> None:
    frame = rig_frame()
    broken = open_detector(small_model)
    broken.image_networks["camera"] = Broken(broken.image_networks["camera"])
    boxes = detect(broken, frame)
    assert broken.counts["failed_images"] == broken.failures == 3
    assert broken.status[0].level is Level.WARN and "out of memory" in broken.status[0].message
    assert_equal(boxes, single(small_model, only(frame, "thermal", "lidar", "ultrasonic")))
    assert not len(detect(broken, only(frame, *YAWS)))  # no image and no LiDAR is left
    detect(broken, only(rig_frame(80), "lidar"))
    assert broken.status[0].level is Level.OK  # eight seconds later


@pytest.mark.parametrize("network", ["proposal_network", "refinement_network"])
def test_geometric_detector_replaces_failing_networks(small_model: Path, network: str) -> None:
    frame = rig_frame()
    broken = open_detector(small_model)
    setattr(broken, network, Broken(getattr(broken, network)))
    boxes = detect(broken, frame)
    expected = GeometricDetector().detect(frame, segment_ground(frame))
    np.testing.assert_array_equal(boxes.boxes, expected.boxes)
    assert broken.counts["fallback_geometric"] == broken.failures == 1
    assert "geometric detector" in broken.status[0].message


def test_surplus_images_are_dropped_and_counted(small_model: Path) -> None:
    frame = only(rig_frame(), *YAWS, "lidar", "thermal")
    limited = open_detector(small_model, max_cameras=2, max_thermal_cameras=0)
    boxes = detect(limited, frame)
    assert limited.counts["surplus_images"] == 2
    assert_equal(boxes, single(small_model, only(frame, "front", "left", "lidar")))


@pytest.mark.parametrize("part", ["intrinsics", "base_from_sensor"])
def test_image_without_calibration_is_dropped_and_counted(small_model: Path, part: str) -> None:
    frame = rig_frame()
    known = {n: v for n, v in getattr(frame, part).items() if n not in ("left", "thermal")}
    detector = open_detector(small_model)
    boxes = detect(detector, dataclasses.replace(frame, **{part: known}))
    assert detector.counts["uncalibrated_images"] == 2
    assert_equal(boxes, single(small_model, only(frame, "front", "rear", "lidar", "ultrasonic")))


def test_image_of_another_size_than_its_intrinsics_is_dropped_and_counted(
    small_model: Path,
) -> None:
    frame = rig_frame()
    wrong = dataclasses.replace(frame.cameras["left"], pixels=np.zeros((60, 80, 3), np.uint8))
    detector = open_detector(small_model)
    boxes = detect(detector, dataclasses.replace(frame, cameras={**frame.cameras, "left": wrong}))
    assert detector.counts["image_size_mismatch"] == 1
    rest = only(frame, "front", "rear", "thermal", "lidar", "ultrasonic")
    assert_equal(boxes, single(small_model, rest))


def test_non_finite_poses_and_points_do_not_reach_the_networks(small_model: Path) -> None:
    frame = rig_frame()
    nan = np.full((4, 4), np.nan)
    for name in ("front", "thermal"):
        moved = dataclasses.replace(frame, reference_from_base={name: nan})
        boxes = single(small_model, moved)
        assert np.isfinite(boxes.boxes).all() and np.isfinite(boxes.scores).all()
    moved = dataclasses.replace(frame, base_from_sensor={**frame.base_from_sensor, "rear": nan})
    detector = open_detector(small_model)
    assert np.isfinite(detect(detector, moved).boxes).all() and not detector.failures


def test_empty_point_clouds_and_images_only(small_model: Path) -> None:
    frame = rig_frame()
    empty = dataclasses.replace(frame.lidars["lidar"], points=np.zeros((0, 4), np.float32))
    with_empty = dataclasses.replace(frame, lidars={"lidar": empty})
    assert_equal(
        single(small_model, with_empty),
        single(small_model, only(frame, *YAWS, "thermal", "ultrasonic")),
    )


def test_past_sweeps_change_the_result_and_are_aligned_by_odometry(small_model: Path) -> None:
    last = drive_frame(3, speed=5.0)
    detector = open_detector(small_model)
    for step in range(3):
        detect(detector, drive_frame(step, speed=5.0))
    with_past = detect(detector, last)
    assert differ(with_past, single(small_model, last))
    with_added_sweeps = open_detector(small_model)
    for step in range(3):
        frame = drive_frame(step, speed=5.0)
        with_added_sweeps.add_past_sweep(frame, segment_ground(frame))
    assert_equal(detect(with_added_sweeps, last), with_past)
    other_speed = open_detector(small_model)
    for step in range(3):
        detect(other_speed, drive_frame(step, speed=0.0))
    assert differ(detect(other_speed, drive_frame(3, speed=0.0)), with_past)
    detector.clear_past_sweeps()
    assert_equal(detect(detector, last), single(small_model, last))


def test_gaps_of_odometry_drop_past_sweeps_and_are_counted(small_model: Path) -> None:
    detector = open_detector(small_model)
    detect(detector, drive_frame(0))
    detect(detector, drive_frame(1))
    without = dataclasses.replace(drive_frame(2), odom_from_base=None)
    boxes = detect(detector, without)
    assert detector.counts["past_sweeps.no_odometry"] == 2
    assert boxes.velocities is None and boxes.velocity_covariances is None
    assert_equal(boxes, single(small_model, without))
    bad = dataclasses.replace(drive_frame(3), odom_from_base=np.full((4, 4), np.nan))
    detect(detector, bad)
    assert detector.counts["past_sweeps.bad_pose"] == 2
    assert differ(detect(detector, drive_frame(4)), single(small_model, drive_frame(4)))


@pytest.mark.parametrize(
    ("frame", "reason"),
    [
        (dataclasses.replace(drive_frame(3), stamp_ns=-STEP_NS), "time_back"),
        (dataclasses.replace(drive_frame(3), stamp_ns=50 * STEP_NS), "too_old"),
        (
            dataclasses.replace(drive_frame(3), odom_from_base=poses.from_xyz_rpy((90, 0, 0))),
            "odometry_jump",
        ),
        (dataclasses.replace(drive_frame(3), odom_frame="other"), "odometry_frame"),
    ],
)
def test_sweeps_of_another_drive_are_dropped_and_counted(
    small_model: Path, frame: SensorFrame, reason: str
) -> None:
    detector = open_detector(small_model)
    for step in range(3):
        detect(detector, drive_frame(step))
    boxes = detect(detector, frame)
    assert detector.counts[f"past_sweeps.{reason}"] == 3
    assert_equal(boxes, single(small_model, frame))


def test_same_frame_again_gives_the_same_result(small_model: Path) -> None:
    detector = open_detector(small_model)
    frames = [drive_frame(k) for k in range(2)]
    detect(detector, frames[0])
    first, again = (detect(detector, frames[1]) for _ in range(2))
    assert_equal(first, again)


def test_velocities_are_in_base_link_with_covariances(small_model: Path) -> None:
    boxes = single(small_model, rig_frame())
    assert boxes.velocities is not None and boxes.velocities.shape == (len(boxes), 2)
    assert boxes.velocity_covariances is not None
    assert (np.linalg.eigvalsh(boxes.velocity_covariances) > 0).all()


def test_results_of_2d_networks_change_the_boxes(small_model: Path) -> None:
    for frame in (rig_frame(), only(rig_frame(), *YAWS, "thermal")):
        plain = single(small_model, frame)
        cars = single(small_model, frame, masks("front", "left", "thermal"))
        road = single(small_model, frame, masks("front", "left", "thermal", label=0))
        assert differ(plain, cars) and differ(cars, road)
        assert_equal(plain, single(small_model, frame, ImageResults()))
        assert_equal(plain, single(small_model, frame, masks("unknown_camera")))


def test_external_proposals_are_refined_on_request(small_model: Path) -> None:
    rows = np.array([[6.5, 0.5, 0.8, 4.0, 1.8, 1.6, 0.1], [2, 2, 1, 1, 1, 1, 0]], np.float32)
    labels = np.array([CLASS_NAMES.index("car"), CLASS_NAMES.index("unknown")])
    external = Boxes3D(0, "base_link", rows, np.array([0.999, 0.9], np.float32), labels)
    frame = rig_frame()
    cloud = segment_ground(frame)
    ignoring, using = (
        open_detector(small_model),
        open_detector(small_model, external_proposals=True),
    )
    assert_equal(ignoring.detect(frame, cloud, external), single(small_model, frame))
    boxes = using.detect(frame, cloud, external)
    assert using.counts["external_proposals"] == 1
    distance = np.hypot(*(boxes.boxes[:, :2] - rows[0, :2]).T)
    assert distance.min() < 1.0


def test_geometric_check_adds_vehicles_with_unknown_velocity(small_model: Path) -> None:
    class Certain:
        def detect(self, frame, cloud):  # type: ignore[no-untyped-def]
            row = np.array([[-9.0, -9.0, 0.8, 4.2, 1.8, 1.5, 0.0]], np.float32)
            return Boxes3D(0, "base_link", row, np.array([0.99], np.float32), np.array([1]))

    config = FusionConfig(str(small_model), min_score=0.9)
    detector = BevFusionDetector(config, RUNTIME, Certain())  # type: ignore[arg-type]
    boxes = detect(detector, rig_frame())
    assert detector.counts["geometric_check.added"] == 1
    k = int(np.argmin(np.hypot(*(boxes.boxes[:, :2] + 9).T)))
    assert boxes.velocities is not None and boxes.covariances is not None
    assert np.isnan(boxes.velocities[k]).all() and not boxes.covariances[k].any()


def test_each_load_level_saves_work(small_model: Path) -> None:
    detector = open_detector(small_model)
    assert detector.load_levels == ("full", "half_images", "no_refinement", "geometric")
    frame = rig_frame()
    full = detect(detector, frame)
    detector.clear_past_sweeps()
    detector.set_load_level(1)
    halves = []
    for _ in range(2):
        detector.clear_past_sweeps()
        halves.append(detect(detector, frame))
    assert detector.counts["load.half_images"] == 2
    # One of three cameras in one frame, two in the other; the only thermal camera always.
    assert detector.counts["load.skipped_images"] == 3
    assert differ(halves[0], full) and differ(halves[0], halves[1])
    detector.set_load_level(2)
    detector.refinement_network = Broken(detector.refinement_network)  # not run
    detect(detector, frame)
    assert not detector.counts.get("fallback_geometric")
    detector.set_load_level(3)
    boxes = detect(detector, frame)
    expected = GeometricDetector().detect(frame, segment_ground(frame))
    np.testing.assert_array_equal(boxes.boxes, expected.boxes)
    assert detector.counts["load.geometric"] == 1
    for level in (-1, 4):
        with pytest.raises(ValueError, match="load level"):
            detector.set_load_level(level)


def test_load_levels_of_a_detector_without_second_stage(small_model: Path) -> None:
    detector = open_detector(small_model, refinement="none")
    assert detector.load_levels == ("full", "half_images", "geometric")
    assert len(detect(detector, rig_frame()))
