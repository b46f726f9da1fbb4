"""Thermal images in a camera's view, and images that are not to be used."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from multimodal_perception.frame import SensorFrame, ThermalImage
from multimodal_perception.geometry import poses
from multimodal_perception.geometry.cameras import CameraModel
from multimodal_perception.images.thermal_to_camera import ThermalViews, bytes_are_swapped, placed
from multimodal_perception.rig import OPTICAL


def camera(width: int, height: int, focal: float) -> CameraModel:
    matrix = [[focal, 0.0, (width - 1) / 2], [0.0, focal, (height - 1) / 2], [0.0, 0.0, 1.0]]
    return CameraModel(width, height, np.array(matrix))


def scene(seed: int, shape: tuple[int, int] = (48, 64)) -> np.ndarray:
    """Counts of 14 bits: a warm blob on a slope, with a sensor's noise."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0 : shape[0], 0 : shape[1]]
    blob = 800 * np.exp(-((y - 20) ** 2 + (x - 40) ** 2) / 60)
    return (7500 + 5 * x + blob + rng.normal(0, 4, shape)).astype(np.uint16)


def frame(pixels: np.ndarray, stamp_ns: int = 0, thermal_focal: float = 50.0) -> SensorFrame:
    rows, columns = pixels.shape
    forward = poses.from_xyz_rpy((1.5, 0.0, 1.4)) @ OPTICAL
    return SensorFrame(
        stamp_ns,
        thermals={"thermal": ThermalImage("thermal", stamp_ns, "t", pixels)},
        base_from_sensor={"camera": forward, "thermal": forward},
        intrinsics={
            "camera": camera(64, 48, 50.0),
            "thermal": camera(columns, rows, thermal_focal),
        },
    )


def test_from_the_same_place_the_image_falls_on_itself() -> None:
    views = ThermalViews(0.0, Counter())
    one = frame(scene(0))
    assert views.best(one, "camera") == ("thermal", 1.0)
    found = views.view(one, "camera", one.intrinsics["camera"], "thermal")
    assert found is not None and found[1].all()
    own = views.normalised(one.thermals["thermal"])
    np.testing.assert_allclose(found[0], own, atol=0.02)


def test_what_a_narrow_thermal_camera_does_not_see_is_told() -> None:
    views = ThermalViews(0.0, Counter())
    narrow = frame(scene(1), thermal_focal=100.0)
    assert views.best(narrow, "camera")[1] == pytest.approx(0.25, abs=0.05)
    found = views.view(narrow, "camera", narrow.intrinsics["camera"], "thermal")
    assert found is not None
    grey, seen = found
    assert seen[24, 32] and not seen[2, 2] and (grey[~seen] == 0).all()


@settings(max_examples=30)
@given(st.integers(0, 10_000), st.integers(1, 60))
def test_swapped_bytes_are_noticed_and_right_ones_are_not(seed: int, gain: int) -> None:
    counts = ((scene(seed).astype(np.int64) - 7000) * gain % 65536).astype(np.uint16)
    rising = np.sort(counts.ravel()).reshape(counts.shape)
    assert not bytes_are_swapped(rising)
    assert not bytes_are_swapped(scene(seed)) and bytes_are_swapped(scene(seed).byteswap())


def test_bytes_of_eight_bits_and_noise_are_left_alone() -> None:
    rng = np.random.default_rng(0)
    assert not bytes_are_swapped(rng.integers(0, 65535, (40, 40), np.uint16))
    assert not bytes_are_swapped(rng.integers(0, 255, (40, 40), np.uint8))
    assert not bytes_are_swapped(np.zeros((4, 1), np.uint16))


def test_swapped_bytes_give_the_right_image_and_are_counted() -> None:
    counts: Counter[str] = Counter()
    right = ThermalViews(0.0, Counter()).normalised(frame(scene(2)).thermals["thermal"])
    mended = ThermalViews(0.0, counts).normalised(frame(scene(2).byteswap()).thermals["thermal"])
    np.testing.assert_array_equal(mended, right)
    assert counts["thermal.byte_order"] == 1


@pytest.mark.parametrize("value", [0, 255])
def test_black_and_saturated_images_show_nothing(value: int) -> None:
    counts: Counter[str] = Counter()
    blank = ThermalImage("t", 0, "t", np.full((32, 32), value, np.uint8))
    assert ThermalViews(0.0, counts).normalised(blank) is None
    assert counts["t.blank"] == 1


def test_a_sensor_is_placed_by_pose_and_intrinsics() -> None:
    assert placed(frame(scene(0)), "camera") and not placed(SensorFrame(0), "camera")


def test_the_upper_quartile_is_brought_where_the_network_wants_it() -> None:
    one = frame(scene(3))
    plain = ThermalViews(0.0, Counter()).normalised(one.thermals["thermal"])
    anchored = ThermalViews(0.0, Counter(), 0.4).normalised(one.thermals["thermal"])
    assert plain is not None and anchored is not None
    assert np.percentile(anchored, 75) == pytest.approx(0.4, abs=0.01)
    assert (np.diff(anchored.ravel()[np.argsort(plain, axis=None)]) >= 0).all()  # in one order
