"""Fixtures of all tests. ROS settings are made here, before anything imports rclpy."""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest

from multimodal_perception.resources import share_path

# Each test run talks to itself alone, whatever else runs on this machine or network.
os.environ["ROS_AUTOMATIC_DISCOVERY_RANGE"] = "LOCALHOST"
os.environ["ROS_DOMAIN_ID"] = str(random.SystemRandom().randint(1, 100))
os.environ["FASTDDS_DEFAULT_PROFILES_FILE"] = str(share_path("config/dds/fastdds_shm.xml"))
os.environ.pop("ROS_NAMESPACE", None)

SHARED_DATA = Path(__file__).resolve().parent.parent.parent / "shared" / "data"


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real sample data; tests that need it are skipped where it is absent."""
    if not SHARED_DATA.is_dir():
        pytest.skip("no ../shared/data here")
    return SHARED_DATA
