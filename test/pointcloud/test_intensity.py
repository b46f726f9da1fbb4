"""Whatever unit a driver uses, and however bright its streets are, the networks see the same."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from multimodal_perception.datasets.nuscenes import NuScenesSample
from multimodal_perception.frame import LidarSweep, SensorFrame
from multimodal_perception.geometry import poses
from multimodal_perception.pointcloud.ground_segmentation import ground_cloud
from multimodal_perception.pointcloud.intensity import BRIGHT, exposure, full_scale

FINITE = st.floats(width=32, allow_nan=False, allow_infinity=False)
STREET = np.random.default_rng(0).beta(1.2, 3.0, 20_000).astype(np.float32)


def frame_of(intensities: np.ndarray, other: np.ndarray | None = None) -> SensorFrame:
    """A wall on flat ground around the vehicle, with intensities (N,); of a second LiDAR the same."""
    count = len(intensities)
    angle = np.linspace(0, 2 * np.pi, count, endpoint=False)
    away = np.where(np.arange(count) % 2, 10.0, 6.0)
    height = np.where(np.arange(count) % 2, 1.0, 0.0)
    places = np.column_stack([away * np.cos(angle), away * np.sin(angle), height])
    sweeps = {"roof": intensities} | ({} if other is None else {"side": other})
    return SensorFrame(
        0,
        lidars={
            n: LidarSweep(n, 0, n, np.column_stack([places, i]).astype(np.float32))
            for n, i in sweeps.items()
        },
        base_from_sensor={n: poses.from_xyz_rpy((0.0, 0.0, 0.0)) for n in sweeps},
    )


@pytest.mark.parametrize("unit", [1.0, 255.0])
def test_shares_and_bytes_are_told(unit: float) -> None:
    assert full_scale(STREET * np.float32(unit)) == unit


def test_a_few_mirrors_do_not_change_the_unit() -> None:
    shares = STREET.copy()
    shares[:50] = 40.0
    assert full_scale(shares) == 1.0
    assert full_scale(np.zeros(0, np.float32)) == 1.0


@pytest.mark.parametrize("factor", [0.2, 1.0, 1.6, 60.0, 255.0, 3000.0])
def test_the_same_street_looks_the_same_to_every_lidar(factor: float) -> None:
    usual = ground_cloud(frame_of(STREET)).points
    told = ground_cloud(frame_of(STREET * np.float32(factor), STREET)).points
    middle = np.quantile(usual[1::2, 3], 0.9)
    assert middle == pytest.approx(BRIGHT, abs=0.01)
    for points in told[: len(STREET)], told[len(STREET) :]:
        np.testing.assert_array_equal(points[:, :3], usual[:, :3])
        dark = usual[:, 3] < 0.7  # what is brighter may be cut off
        np.testing.assert_allclose(points[dark, 3], usual[dark, 3], rtol=0.02, atol=1e-4)


def test_too_little_to_go_by_or_no_intensity_stays() -> None:
    assert exposure(np.full(50, 0.1)) == 1.0 and exposure(np.zeros(5000)) == 1.0
    assert exposure(np.full(5000, 1e-5)) <= 6.0 and exposure(np.ones(5000)) >= 0.5


@given(arrays.arrays(np.float32, st.integers(1, 300), elements=st.floats(3, 60000, width=32)))
def test_what_has_no_scale_is_a_share_of_what_most_do_not_exceed(values: np.ndarray) -> None:
    assert full_scale(values) == pytest.approx(max(np.quantile(values, 0.99), 255.0), rel=1e-6)


@given(arrays.arrays(np.float32, st.integers(0, 50), elements=FINITE))
def test_anything_becomes_a_share(values: np.ndarray) -> None:
    shares = ground_cloud(frame_of(values)).points[:, 3]
    assert shares.shape == values.shape and ((shares >= 0) & (shares <= 1)).all()


def test_a_real_sweep_in_bytes(shared_data: Path) -> None:
    frame = NuScenesSample(shared_data / "nuscenes_frame")[0]
    assert frame.lidars["lidar_top"].points[:, 3].max() == 255.0
    cloud = ground_cloud(frame)
    seen = cloud.points[~cloud.is_ground & (cloud.height < 3), 3]
    assert np.quantile(seen, 0.9) == pytest.approx(BRIGHT, abs=0.1)
