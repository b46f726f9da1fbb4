"""Offset measurements in a synthetic street with deliberately wrong extrinsics."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from multimodal_perception.calibration_monitor.sensor_pairs import (
    Pair,
    find_pairs,
    measure_rotation_error,
    render_pair,
    rotated_pose,
)
from multimodal_perception.frame import CameraImage, LidarSweep, SensorFrame, ThermalImage
from multimodal_perception.geometry import poses
from test.calibration_monitor.painted_street import CAMERA, MODEL, POSE, THERMAL, street, wrong


def test_find_pairs_of_a_frame() -> None:
    assert list(find_pairs(street())) == [CAMERA, THERMAL]
    camera_only = replace(street(), lidars={}, thermals={})
    assert list(find_pairs(camera_only)) == []
    bare = replace(street(), intrinsics={})
    assert list(find_pairs(bare)) == []


def test_sweep_that_is_not_deskewed_is_not_compared() -> None:
    frame = street()
    sweep = frame.lidars["lidar"]
    distorted = replace(sweep, time_offsets=np.zeros(len(sweep.points), np.float32))
    assert list(find_pairs(replace(frame, lidars={"lidar": distorted}))) == [THERMAL]


@pytest.mark.parametrize("pair", [CAMERA, THERMAL], ids=["lidar", "thermal"])
@pytest.mark.parametrize("degrees", [(0, 0, 0), (0.8, -0.5, 0.6), (-1.2, 1.1, -0.4)])
def test_rotation_error_is_measured(pair: Pair, degrees: tuple[float, float, float]) -> None:
    measurement = measure_rotation_error(wrong(street(), pair.sensor, degrees), pair)
    assert measurement is not None
    assert np.degrees(measurement.rotation) == pytest.approx(degrees, abs=0.25)
    assert np.degrees(measurement.rotation[:2]) == pytest.approx(degrees[:2], abs=0.15)
    assert (
        (np.diag(measurement.covariance) > 0).all()
        and measurement.inlier_fraction > 0.5
        and measurement.peak_margin > 1.0
    )
    assert measurement.focal == pytest.approx([300.0, 300.0])
    assert measurement.radians_per_pixel[:2] == pytest.approx([1 / 300.0, 1 / 300.0])


def test_rotated_pose_restores_the_true_pose() -> None:
    frame = wrong(street(), "camera", (0.9, -0.7, 0.5))
    measurement = measure_rotation_error(frame, CAMERA)
    assert measurement is not None
    residual = poses.inverse(POSE) @ rotated_pose(
        frame.base_from_sensor["camera"], measurement.rotation
    )
    assert np.degrees(np.linalg.norm(residual[:3, :3] - np.eye(3)) / np.sqrt(2)) < 0.3


def with_uniform_image(value: int, kind: str = "camera") -> SensorFrame:
    frame = street()
    shape = MODEL.height, MODEL.width
    if kind == "camera":
        pixels = np.full((*shape, 3), value, np.uint8)
        return replace(frame, cameras={"camera": CameraImage("camera", 0, "", pixels)})
    heat = ThermalImage("thermal", 0, "", np.full(shape, value, np.uint16))
    return replace(frame, thermals={"thermal": heat})


@pytest.mark.parametrize("value", [0, 255])
def test_black_and_saturated_images_give_no_measurement(value: int) -> None:
    assert measure_rotation_error(with_uniform_image(value), CAMERA) is None
    assert measure_rotation_error(with_uniform_image(value), THERMAL) is None
    assert measure_rotation_error(with_uniform_image(257 * value, "thermal"), THERMAL) is None


def test_thermal_images_of_8_bits_and_flipped_byte_order() -> None:
    frame = wrong(street(), "thermal", (0.5, 0.5, 0.0))
    heat = frame.thermals["thermal"].pixels
    eight = ((heat - heat.min()) // 8).astype(np.uint8)
    measurement = measure_rotation_error(
        replace(frame, thermals={"thermal": ThermalImage("thermal", 0, "", eight)}), THERMAL
    )
    assert measurement is not None and np.degrees(measurement.rotation[:2]) == pytest.approx(
        (0.5, 0.5), abs=0.15
    )
    # Swapped bytes change the temperatures, but keep the edges.
    swapped = ThermalImage("thermal", 0, "", heat.byteswap())
    result = measure_rotation_error(replace(frame, thermals={"thermal": swapped}), THERMAL)
    assert result is not None and np.degrees(result.rotation[:2]) == pytest.approx(
        (0.5, 0.5), abs=0.15
    )


def test_sweep_outside_the_view_gives_no_measurement() -> None:
    frame = street()
    behind = frame.lidars["lidar"].points * np.array([-1, 1, 1, 1], np.float32)
    outside = replace(frame, lidars={"lidar": LidarSweep("lidar", 0, "", behind)})
    assert render_pair(outside, CAMERA) is None and measure_rotation_error(outside, CAMERA) is None
    none = replace(frame, lidars={"lidar": LidarSweep("lidar", 0, "", behind[:0])})
    assert measure_rotation_error(none, CAMERA) is None


def test_image_smaller_than_a_block_gives_no_measurement() -> None:
    frame = street()
    pixels = frame.cameras["camera"].pixels[:40, :60]
    small = replace(
        frame,
        cameras={"camera": CameraImage("camera", 0, "", pixels)},
        intrinsics={"camera": MODEL.scaled(60 / 400, 40 / 260), "thermal": MODEL},
    )
    assert measure_rotation_error(small, CAMERA) is None


def test_cancelled_measurement_returns_none() -> None:
    polls = iter([False, False, True] + [True] * 500)
    assert measure_rotation_error(street(), CAMERA, lambda: next(polls)) is None
