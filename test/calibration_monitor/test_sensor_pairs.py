"""Looks at a painted street whose calibration is made wrong on purpose."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from multimodal_perception.calibration_monitor.sensor_pairs import Pair, look, pairs_of, see, turned
from multimodal_perception.frame import CameraImage, LidarSweep, SensorFrame, ThermalImage
from multimodal_perception.geometry import poses
from test.calibration_monitor.painted_street import CAMERA, MODEL, POSE, THERMAL, street, wrong


def test_pairs_of_a_frame() -> None:
    assert list(pairs_of(street())) == [CAMERA, THERMAL]
    alone = replace(street(), lidars={}, thermals={})
    assert list(pairs_of(alone)) == []
    bare = replace(street(), intrinsics={})
    assert list(pairs_of(bare)) == []


def test_a_sweep_that_is_not_deskewed_is_not_compared() -> None:
    frame = street()
    sweep = frame.lidars["lidar"]
    bent = replace(sweep, time_offsets=np.zeros(len(sweep.points), np.float32))
    assert list(pairs_of(replace(frame, lidars={"lidar": bent}))) == [THERMAL]


@pytest.mark.parametrize("pair", [CAMERA, THERMAL], ids=["lidar", "thermal"])
@pytest.mark.parametrize("degrees", [(0, 0, 0), (0.8, -0.5, 0.6), (-1.2, 1.1, -0.4)])
def test_a_turn_is_found(pair: Pair, degrees: tuple[float, float, float]) -> None:
    seen = look(wrong(street(), pair.sensor, degrees), pair)
    assert seen is not None
    assert np.degrees(seen.turn) == pytest.approx(degrees, abs=0.25)
    assert np.degrees(seen.turn[:2]) == pytest.approx(degrees[:2], abs=0.15)
    assert (np.diag(seen.covariance) > 0).all() and seen.support > 0.5 and seen.distinct > 1.0
    assert seen.focal == pytest.approx([300.0, 300.0])
    assert seen.pixel[:2] == pytest.approx([1 / 300.0, 1 / 300.0])


def test_correcting_by_the_turn_puts_the_sensor_back() -> None:
    frame = wrong(street(), "camera", (0.9, -0.7, 0.5))
    seen = look(frame, CAMERA)
    assert seen is not None
    left = poses.inverse(POSE) @ turned(frame.base_from_sensor["camera"], seen.turn)
    assert np.degrees(np.linalg.norm(left[:3, :3] - np.eye(3)) / np.sqrt(2)) < 0.3


def image_of(value: int, kind: str = "camera") -> SensorFrame:
    frame = street()
    shape = MODEL.height, MODEL.width
    if kind == "camera":
        pixels = np.full((*shape, 3), value, np.uint8)
        return replace(frame, cameras={"camera": CameraImage("camera", 0, "", pixels)})
    heat = ThermalImage("thermal", 0, "", np.full(shape, value, np.uint16))
    return replace(frame, thermals={"thermal": heat})


@pytest.mark.parametrize("value", [0, 255])
def test_black_and_saturated_images_say_nothing(value: int) -> None:
    assert look(image_of(value), CAMERA) is None
    assert look(image_of(value), THERMAL) is None
    assert look(image_of(257 * value, "thermal"), THERMAL) is None


def test_thermal_images_of_8_bits_and_flipped_byte_order() -> None:
    frame = wrong(street(), "thermal", (0.5, 0.5, 0.0))
    heat = frame.thermals["thermal"].pixels
    eight = ((heat - heat.min()) // 8).astype(np.uint8)
    seen = look(
        replace(frame, thermals={"thermal": ThermalImage("thermal", 0, "", eight)}), THERMAL
    )
    assert seen is not None and np.degrees(seen.turn[:2]) == pytest.approx((0.5, 0.5), abs=0.15)
    # Swapped bytes keep the edges, if not the temperatures.
    swapped = ThermalImage("thermal", 0, "", heat.byteswap())
    told = look(replace(frame, thermals={"thermal": swapped}), THERMAL)
    assert told is not None and np.degrees(told.turn[:2]) == pytest.approx((0.5, 0.5), abs=0.15)


def test_a_sweep_that_the_camera_does_not_see_says_nothing() -> None:
    frame = street()
    behind = frame.lidars["lidar"].points * np.array([-1, 1, 1, 1], np.float32)
    away = replace(frame, lidars={"lidar": LidarSweep("lidar", 0, "", behind)})
    assert see(away, CAMERA) is None and look(away, CAMERA) is None
    none = replace(frame, lidars={"lidar": LidarSweep("lidar", 0, "", behind[:0])})
    assert look(none, CAMERA) is None


def test_images_too_small_for_a_block_say_nothing() -> None:
    frame = street()
    pixels = frame.cameras["camera"].pixels[:40, :60]
    small = replace(
        frame,
        cameras={"camera": CameraImage("camera", 0, "", pixels)},
        intrinsics={"camera": MODEL.scaled(60 / 400, 40 / 260), "thermal": MODEL},
    )
    assert look(small, CAMERA) is None


def test_a_look_that_is_cancelled_ends_without_an_answer() -> None:
    asked = iter([False, False, True] + [True] * 500)
    assert look(street(), CAMERA, lambda: next(asked)) is None
