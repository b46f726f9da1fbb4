"""Intensities in any unit and of any LiDAR are scaled to the same reflectivities."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from multimodal_perception.datasets.nuscenes import NuScenesSampleDataset
from multimodal_perception.frame import LidarSweep, SensorFrame
from multimodal_perception.geometry import poses
from multimodal_perception.pointcloud.ground_segmentation import segment_ground
from multimodal_perception.pointcloud.intensity import TARGET_INTENSITY, estimate_gain, full_scale

FINITE = st.floats(width=32, allow_nan=False, allow_infinity=False)
STREET = np.random.default_rng(0).beta(1.2, 3.0, 20_000).astype(np.float32)


def frame_of(intensities: np.ndarray, other: np.ndarray | None = None) -> SensorFrame:
    """A wall on flat ground around the vehicle; intensities (N,) of one or two LiDARs."""
    count = len(intensities)
    angle = np.linspace(0, 2 * np.pi, count, endpoint=False)
    distance = np.where(np.arange(count) % 2, 10.0, 6.0)
    height = np.where(np.arange(count) % 2, 1.0, 0.0)
    positions = np.column_stack([distance * np.cos(angle), distance * np.sin(angle), height])
    sweeps = {"roof": intensities} | ({} if other is None else {"side": other})
    return SensorFrame(
        0,
        lidars={
            n: LidarSweep(n, 0, n, np.column_stack([positions, i]).astype(np.float32))
            for n, i in sweeps.items()
        },
        base_from_sensor={n: poses.from_xyz_rpy((0.0, 0.0, 0.0)) for n in sweeps},
    )


@pytest.mark.parametrize("unit", [1.0, 255.0])
def test_units_0_to_1_and_0_to_255_are_detected(unit: float) -> None:
    assert full_scale(STREET * np.float32(unit)) == unit


def test_retroreflectors_do_not_change_the_detected_unit() -> None:
    values = STREET.copy()
    values[:50] = 40.0
    assert full_scale(values) == 1.0
    assert full_scale(np.zeros(0, np.float32)) == 1.0


@pytest.mark.parametrize("factor", [0.2, 1.0, 1.6, 60.0, 255.0, 3000.0])
def test_same_street_has_the_same_reflectivities_for_every_lidar(factor: float) -> None:
    reference = segment_ground(frame_of(STREET)).points
    scaled = segment_ground(frame_of(STREET * np.float32(factor), STREET)).points
    level = np.quantile(reference[1::2, 3], 0.9)
    assert level == pytest.approx(TARGET_INTENSITY, abs=0.01)
    for points in scaled[: len(STREET)], scaled[len(STREET) :]:
        np.testing.assert_array_equal(points[:, :3], reference[:, :3])
        dark = reference[:, 3] < 0.7  # brighter values may be clipped
        np.testing.assert_allclose(points[dark, 3], reference[dark, 3], rtol=0.02, atol=1e-4)


def test_gain_is_1_for_few_samples_and_limited_otherwise() -> None:
    assert estimate_gain(np.full(50, 0.1)) == 1.0 and estimate_gain(np.zeros(5000)) == 1.0
    assert estimate_gain(np.full(5000, 1e-5)) <= 6.0 and estimate_gain(np.ones(5000)) >= 0.5


@given(arrays.arrays(np.float32, st.integers(1, 300), elements=st.floats(3, 60000, width=32)))
def test_counts_without_scale_are_divided_by_their_99th_percentile(values: np.ndarray) -> None:
    assert full_scale(values) == pytest.approx(max(np.quantile(values, 0.99), 255.0), rel=1e-6)


@given(arrays.arrays(np.float32, st.integers(0, 50), elements=FINITE))
def test_any_intensities_are_scaled_to_0_to_1(values: np.ndarray) -> None:
    scaled = segment_ground(frame_of(values)).points[:, 3]
    assert scaled.shape == values.shape and ((scaled >= 0) & (scaled <= 1)).all()


def test_recorded_sweep_in_bytes_is_scaled(shared_data: Path) -> None:
    frame = NuScenesSampleDataset(shared_data / "nuscenes_frame")[0]
    assert frame.lidars["lidar_top"].points[:, 3].max() == 255.0
    cloud = segment_ground(frame)
    objects = cloud.points[~cloud.is_ground & (cloud.height < 3), 3]
    assert np.quantile(objects, 0.9) == pytest.approx(TARGET_INTENSITY, abs=0.1)
