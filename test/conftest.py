"""Fixtures of all tests. ROS settings are made here, before anything imports rclpy."""

from __future__ import annotations

import os
import random
import socket
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import settings

from multimodal_perception.resources import share_path

if TYPE_CHECKING:
    from multimodal_perception.simulation.simulation import Observation

# A deadline would time the machine, and the compilation of kernels.
settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")


def _hold_domain() -> tuple[str, socket.socket | None]:
    """A ROS domain that no other test run on this machine has, and what holds it till this process ends.

    0 is everybody's, and above 101 DDS's ports are those of outgoing connections. One that the
    environment names is taken as it is.
    """
    if named := os.environ.get("ROS_DOMAIN_ID"):
        return named, None
    for domain in random.SystemRandom().sample(range(1, 102), 101):
        held = socket.socket(socket.AF_UNIX)
        try:
            held.bind(f"\0multimodal_perception/test/domain/{domain}")
        except OSError:  # another run has it
            held.close()
        else:
            return str(domain), held
    raise pytest.UsageError("other test runs have all ROS domains: name one in ROS_DOMAIN_ID")


# Each test run talks to itself alone, whatever else runs on this machine or network; so do the
# processes that it starts.
os.environ["ROS_AUTOMATIC_DISCOVERY_RANGE"] = "LOCALHOST"
os.environ["ROS_DOMAIN_ID"], _HELD = _hold_domain()
os.environ["FASTDDS_DEFAULT_PROFILES_FILE"] = str(share_path("config/dds/fastdds_shm.xml"))
os.environ.pop("ROS_NAMESPACE", None)
# Results and start times of the tests must not depend on measured times.
os.environ["MULTIMODAL_PERCEPTION_MEASURE"] = "never"

SHARED_DATA = Path(__file__).resolve().parent.parent.parent / "shared" / "data"


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real sample data; tests that need it are skipped where it is absent."""
    if not SHARED_DATA.is_dir():
        pytest.skip("no ../shared/data here")
    return SHARED_DATA


@pytest.fixture(scope="session")
def night_street() -> Observation:
    """A simulated street by night, seen by a camera and a thermal camera."""
    from multimodal_perception.rig import load_rig, resolve_rig_path
    from multimodal_perception.simulation.simulation import Simulation

    rig = load_rig(resolve_rig_path("simulation"))
    rig = replace(rig, sensors={n: rig.sensors[n] for n in ("camera_front", "thermal_front")})
    return Simulation("urban_street", rig, 10_777, 30, ("night",)).observe(20)
