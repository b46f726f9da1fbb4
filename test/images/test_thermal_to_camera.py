"""Thermal images warped into a camera's view, and images that are rejected."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from multimodal_perception.frame import SensorFrame, ThermalImage
from multimodal_perception.geometry import poses
from multimodal_perception.geometry.cameras import CameraModel
from multimodal_perception.images.byte_order import has_swapped_bytes
from multimodal_perception.images.thermal_to_camera import ThermalViews, has_pose
from multimodal_perception.sensor_calibration import BODY_FROM_OPTICAL


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
    forward = poses.from_xyz_rpy((1.5, 0.0, 1.4)) @ BODY_FROM_OPTICAL
    return SensorFrame(
        stamp_ns,
        thermals={"thermal": ThermalImage("thermal", stamp_ns, "t", pixels)},
        base_from_sensor={"camera": forward, "thermal": forward},
        intrinsics={
            "camera": camera(64, 48, 50.0),
            "thermal": camera(columns, rows, thermal_focal),
        },
    )


def test_warp_between_identical_poses_is_identity() -> None:
    views = ThermalViews(Counter())
    one = frame(scene(0))
    assert views.best_match(one, "camera") == ("thermal", 1.0)
    result = views.warped(one, "camera", one.intrinsics["camera"], "thermal")
    assert result is not None and result[1].all()
    own = views.normalised(one.thermals["thermal"])
    np.testing.assert_allclose(result[0], own, atol=0.02)


def test_mask_of_a_narrow_thermal_camera() -> None:
    views = ThermalViews(Counter())
    narrow = frame(scene(1), thermal_focal=100.0)
    assert views.best_match(narrow, "camera")[1] == pytest.approx(0.25, abs=0.05)
    result = views.warped(narrow, "camera", narrow.intrinsics["camera"], "thermal")
    assert result is not None
    grey, mask = result
    assert mask[24, 32] and not mask[2, 2] and (grey[~mask] == 0).all()


@settings(max_examples=30)
@given(st.integers(0, 10_000), st.integers(1, 60))
def test_swapped_byte_order_is_detected(seed: int, gain: int) -> None:
    counts = ((scene(seed).astype(np.int64) - 7000) * gain % 65536).astype(np.uint16)
    rising = np.sort(counts.ravel()).reshape(counts.shape)
    assert not has_swapped_bytes(rising)
    assert not has_swapped_bytes(scene(seed)) and has_swapped_bytes(scene(seed).byteswap())


def test_eight_bit_images_and_noise_are_not_reported_as_swapped() -> None:
    rng = np.random.default_rng(0)
    assert not has_swapped_bytes(rng.integers(0, 65535, (40, 40), np.uint16))
    assert not has_swapped_bytes(rng.integers(0, 255, (40, 40), np.uint8))
    assert not has_swapped_bytes(np.zeros((4, 1), np.uint16))


def test_swapped_bytes_are_corrected_and_counted() -> None:
    counts: Counter[str] = Counter()
    expected = ThermalViews(Counter()).normalised(frame(scene(2)).thermals["thermal"])
    corrected = ThermalViews(counts).normalised(frame(scene(2).byteswap()).thermals["thermal"])
    np.testing.assert_array_equal(corrected, expected)
    assert counts["thermal.byte_order"] == 1


@pytest.mark.parametrize("value", [0, 255])
def test_black_and_saturated_images_are_rejected(value: int) -> None:
    counts: Counter[str] = Counter()
    blank = ThermalImage("t", 0, "t", np.full((32, 32), value, np.uint8))
    assert ThermalViews(counts).normalised(blank) is None
    assert counts["t.blank"] == 1


def test_has_pose_needs_extrinsics_and_intrinsics() -> None:
    assert has_pose(frame(scene(0)), "camera") and not has_pose(SensorFrame(0), "camera")


def test_upper_quartile_is_mapped_to_the_configured_value() -> None:
    one = frame(scene(3))
    plain = ThermalViews(Counter()).normalised(one.thermals["thermal"])
    mapped = ThermalViews(Counter(), 0.4).normalised(one.thermals["thermal"])
    assert plain is not None and mapped is not None
    assert np.percentile(mapped, 75) == pytest.approx(0.4, abs=0.01)
    assert (np.diff(mapped.ravel()[np.argsort(plain, axis=None)]) >= 0).all()  # monotonic
