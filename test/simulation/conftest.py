"""Fixtures of the simulator's tests."""

import pytest

from multimodal_perception.simulation.simulation import Simulation
from test.simulation.rigs import small_rig, street


@pytest.fixture(scope="session")
def noiseless_drive():
    """A drive without noise and without motion within a LiDAR rotation."""
    rig = small_rig(noise=False, lidar={"motion_distortion": False})
    return Simulation(street(), rig, seed=3, frames=20)
