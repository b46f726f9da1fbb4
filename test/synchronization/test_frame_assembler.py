"""Frames from reading sets: extrinsics, ego motion, deskewing, and readings left out."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from numpy.testing import assert_allclose

from multimodal_perception.frame import CameraImage, LidarSweep, Modality, UltrasonicReading
from multimodal_perception.geometry import poses
from multimodal_perception.geometry.camera_calibration import CameraCalibration
from multimodal_perception.geometry.transform_tree import TransformTree
from multimodal_perception.rig import Rig, Sensor
from multimodal_perception.sensor_calibration import Extrinsics, Intrinsics
from multimodal_perception.synchronization.frame_assembler import FrameAssembler, sensor_counts
from multimodal_perception.synchronization.reading_set import ReadingSet

MS = 1_000_000
SECOND = 1000 * MS
SPEED = 10.0


def rig() -> Rig:
    extrinsics = Extrinsics((1.0, 0.0, 1.5))
    intrinsics = Intrinsics(40, 30, 30.0, 30.0, 19.5, 14.5)
    sensors = [
        Sensor("lidar", Modality.LIDAR, "/lidar", "lidar", extrinsics),
        Sensor("rear", Modality.LIDAR, "/rear", "rear"),
        Sensor("camera", Modality.CAMERA, "/camera", "camera", extrinsics, intrinsics=intrinsics),
        Sensor("side", Modality.ULTRASONIC, "/side", "side", extrinsics),
    ]
    return Rig("test", {s.name: s for s in sensors})


def moving(tree: TransformTree, until_s: float = 3.0) -> TransformTree:
    for i in range(round(until_s * 50) + 1):
        pose = poses.from_xyz_rpy((SPEED * i / 50, 0.0, 0.0))
        tree.set("odom", "base_link", i * 20 * MS, pose)
    return tree


def reading_set(stamp_ns: int, **readings: object) -> ReadingSet:
    content = {n: (r.stamp_ns, r) for n, r in readings.items()}  # type: ignore[attr-defined]
    return ReadingSet(stamp_ns, content, frozenset(rig().sensors) - content.keys())


def sweep(name: str, stamp_ns: int, times: object = None) -> LidarSweep:
    points = np.array([[5, 1, 0, 0.5], [8, -2, 0, 0.7]], np.float32)
    return LidarSweep(name, stamp_ns, name, points, times)  # type: ignore[arg-type]


def image(stamp_ns: int, height: int = 30) -> CameraImage:
    return CameraImage("camera", stamp_ns, "camera", np.zeros((height, 40, 3), np.uint8))


def test_ego_motion_refers_readings_to_the_reference_time() -> None:
    assembler = FrameAssembler(rig(), moving(TransformTree()))
    camera, side = (
        image(SECOND - 30 * MS),
        UltrasonicReading("side", SECOND + 20 * MS, "side", 1, 0, 4, 0.5),
    )
    frame = assembler.assemble(
        reading_set(SECOND, lidar=sweep("lidar", SECOND), camera=camera, side=side)
    )
    assert frame.reference_from_base["camera"][0, 3] == pytest.approx(-0.03 * SPEED)
    assert frame.reference_from_base["side"][0, 3] == pytest.approx(0.02 * SPEED)
    assert frame.odom_from_base is not None
    assert frame.odom_from_base[0, 3] == pytest.approx(SPEED)
    assert not assembler.notices.pop()


def test_several_lidars_are_merged_with_their_pose_and_stamp() -> None:
    tree = moving(TransformTree())
    tree.set("base_link", "rear", 0, poses.from_xyz_rpy((-2, 0, 1), (0, 0, np.pi)), static=True)
    frame = FrameAssembler(rig(), tree).assemble(
        reading_set(SECOND, lidar=sweep("lidar", SECOND), rear=sweep("rear", SECOND - 50 * MS))
    )
    points = frame.points_in_base()
    assert_allclose(points[:2, :3], [[6, 1, 1.5], [9, -2, 1.5]], atol=1e-5)
    # The vehicle drove 0.5 m after the sweep of the rear LiDAR.
    assert_allclose(points[2:, :3], [[-7.5, -1, 1], [-10.5, 2, 1]], atol=1e-4)


def test_sweep_with_times_is_deskewed_with_odometry() -> None:
    times = np.array([0.0, 0.1], np.float32)
    with_odometry = FrameAssembler(rig(), moving(TransformTree()))
    frame = with_odometry.assemble(reading_set(SECOND, lidar=sweep("lidar", SECOND, times)))
    assert_allclose(frame.lidars["lidar"].points[:, 0], [5, 8 + 0.1 * SPEED], atol=1e-3)
    without = FrameAssembler(rig(), TransformTree())
    frame = without.assemble(reading_set(SECOND, lidar=sweep("lidar", SECOND, times)))
    assert_allclose(frame.lidars["lidar"].points[:, 0], [5, 8])


def test_time_offset_is_subtracted_before_deskewing() -> None:
    times = np.array([0.0, 0.1], np.float32)
    late = sweep("lidar", SECOND + 50 * MS, times)  # a clock 50 ms ahead
    readings = ReadingSet(SECOND, {"lidar": (SECOND, late)}, frozenset())
    frame = FrameAssembler(rig(), moving(TransformTree())).assemble(readings)
    assert frame.lidars["lidar"].stamp_ns == SECOND
    assert_allclose(frame.points_in_base()[:, 0], [6, 9 + 0.1 * SPEED], atol=1e-3)


def test_frame_has_odom_frame_and_ground_height_of_the_rig() -> None:
    custom = replace(rig(), odom_frame="map", ground_z=-0.3)
    frame = FrameAssembler(custom, TransformTree()).assemble(
        reading_set(SECOND, lidar=sweep("lidar", SECOND))
    )
    assert (frame.odom_frame, frame.ground_z) == ("map", -0.3)


def test_missing_odometry_is_reported_once() -> None:
    assembler = FrameAssembler(rig(), TransformTree())
    for i in range(5):
        frame = assembler.assemble(reading_set(i * SECOND, lidar=sweep("lidar", i * SECOND)))
        assert frame.odom_from_base is None and not frame.reference_from_base
    notices = assembler.notices.pop()
    assert len(notices) == 1
    assert "no odometry (odom to base_link)" in notices[0]


def test_reading_without_calibration_is_missing_and_counted() -> None:
    assembler = FrameAssembler(rig(), moving(TransformTree()))
    frame = assembler.assemble(
        reading_set(SECOND, rear=sweep("rear", SECOND), camera=image(SECOND, height=31))
    )
    assert frame.present == frozenset()
    assert frame.missing == {"lidar", "rear", "camera", "side"}
    assert sensor_counts(assembler.drops, "rear") == {"no_transform_unknown_frame": 1}
    assert sensor_counts(assembler.drops, "camera") == {"image_size": 1}


def test_camera_without_intrinsics_is_missing_until_camera_info() -> None:
    sensors = dict(rig().sensors)
    extrinsics = Extrinsics((0, 0, 1))
    sensors["camera"] = Sensor(
        "camera", Modality.CAMERA, "/camera", "camera", extrinsics, camera_info_topic="/info"
    )
    assembler = FrameAssembler(Rig("test", sensors), TransformTree())
    assert "camera" in assembler.assemble(reading_set(0, camera=image(0))).missing
    assert assembler.drops["camera", "no_camera_info"] == 1
    model = Intrinsics(40, 30, 30.0, 30.0, 19.5, 14.5).camera_model()
    assembler.calibrations["camera"] = CameraCalibration(model, "test")
    assert "camera" in assembler.assemble(reading_set(1, camera=image(1))).present
