"""Whatever unit a driver uses, the networks see the same reflectivity."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from multimodal_perception.datasets.nuscenes import NuScenesSample
from multimodal_perception.frame import LidarSweep, SensorFrame
from multimodal_perception.preprocess.ground import ground_cloud
from multimodal_perception.preprocess.intensity import full_scale, reflectivity

FINITE = st.floats(width=32, allow_nan=False, allow_infinity=False)
STREET = np.random.default_rng(0).beta(1.2, 3.0, 20_000).astype(np.float32)


@pytest.mark.parametrize("unit", [1.0, 255.0])
def test_shares_and_bytes_are_the_same(unit: float) -> None:
    assert full_scale(STREET * np.float32(unit)) == unit
    np.testing.assert_allclose(reflectivity(STREET * np.float32(unit)), STREET, atol=1e-6)


def test_counts_without_a_scale_go_by_the_brightest() -> None:
    seen = reflectivity(STREET * np.float32(3000.0))
    assert np.corrcoef(seen, STREET)[0, 1] > 0.99
    assert np.quantile(seen, 0.99) == pytest.approx(1.0, abs=0.05)


def test_a_few_mirrors_do_not_change_the_unit() -> None:
    shares = STREET.copy()
    shares[:50] = 40.0
    assert full_scale(shares) == 1.0 and reflectivity(shares).max() == 1.0


@given(arrays.arrays(np.float32, st.integers(0, 50), elements=FINITE))
def test_anything_becomes_a_share(values: np.ndarray) -> None:
    shares = reflectivity(values)
    assert shares.shape == values.shape and ((shares >= 0) & (shares <= 1)).all()
    sweep = np.column_stack([np.tile([[5.0, 1.0, 0.0]], (len(values), 1)), values])
    frame = SensorFrame(
        0,
        lidars={"roof": LidarSweep("roof", 0, "roof", sweep.astype(np.float32))},
        base_from_sensor={"roof": np.eye(4)},
    )
    np.testing.assert_allclose(ground_cloud(frame).points[:, 3], shares, atol=1e-6)


def test_a_real_sweep_in_bytes(shared_data) -> None:
    sweep = NuScenesSample(shared_data / "nuscenes_frame")[0].lidars["lidar_top"]
    assert sweep.points[:, 3].max() == 255.0
    shares = reflectivity(sweep.points[:, 3])
    np.testing.assert_allclose(shares, sweep.points[:, 3] / np.float32(255), atol=1e-6)
