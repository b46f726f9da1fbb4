"""Shipped and random rigs of the simulator."""

from collections import Counter

import numpy as np
import pytest
import yaml

from multimodal_perception.cli.rig import notes
from multimodal_perception.configuration import UserError
from multimodal_perception.frame import Modality
from multimodal_perception.rig import dump_rig, parse_rig
from multimodal_perception.simulation.random_rigs import random_rig
from multimodal_perception.simulation.rigs import open_rig
from multimodal_perception.simulation.sensors.lidar import (
    LidarSimulationConfig,
    beam_angles,
    beam_table,
)
from multimodal_perception.simulation.simulation import Simulation

SHIPPED = ("nuscenes_like", "kitti_like", "pandaset_like", "solid_state_front", "amr_16")


def test_random_rigs_are_deterministic_and_valid_rig_files():
    for seed in range(40):
        rig = random_rig(seed)
        assert rig.sensors == open_rig(f"random:{seed}").sensors
        assert parse_rig(yaml.safe_load(dump_rig(rig)), "rig").sensors == rig.sensors
        list(notes(rig))
        assert any(rig.sensors_of(m) for m in (Modality.LIDAR, Modality.CAMERA, Modality.THERMAL))


def test_random_rigs_cover_the_documented_ranges():
    cameras, thermals, rings, heights, models = Counter(), Counter(), Counter(), [], Counter()
    for seed in range(250):
        rig = random_rig(seed)
        cameras[len(rig.sensors_of(Modality.CAMERA))] += 1
        thermals[len(rig.sensors_of(Modality.THERMAL))] += 1
        for sensor in rig.sensors_of(Modality.LIDAR).values():
            config = LidarSimulationConfig(**sensor.simulation)
            rings[len(beam_angles(config, sensor.name)[0])] += 1
            models[config.model] += 1
            heights.append(sensor.extrinsics.xyz[2])
        for sensor in rig.sensors_of(Modality.CAMERA).values():
            models[sensor.intrinsics.model] += 1
            assert sensor.intrinsics.width * sensor.intrinsics.height < 1.3 * 512 * 288
    assert set(cameras) == set(range(9)) and set(thermals) == set(range(5))
    assert {16, 32, 64, 128} <= set(rings)
    assert 0.4 <= min(heights) < 0.6 and 2.0 < max(heights) <= 2.2
    assert {"solid_state", "equidistant", "pinhole", "uniform", "pandar64"} <= set(models)


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_rigs_can_be_simulated(name):
    rig = open_rig(name)
    frame = Simulation("urban_street", rig, 1, 1, profile="basic")[0]
    assert not frame.missing and len(frame.points_in_base()) > 1000


def test_beam_tables_have_the_fields_of_view_of_the_manuals():
    pandar = beam_table("pandar64")
    assert len(pandar) == 64 and pandar[0] == 15 and pandar[-1] == -25
    assert (np.diff(pandar) < 0).all()
    uniform = LidarSimulationConfig(
        model="uniform", rings=128, top_elevation=11.0, bottom_elevation=-20.0, columns=100
    )
    azimuth, elevation = beam_angles(uniform, "lidar")
    assert azimuth.shape == (128, 100)
    np.testing.assert_allclose(np.degrees([elevation.max(), elevation.min()]), (11.0, -20.0))


def test_a_solid_state_lidar_stays_in_its_field_of_view():
    config = LidarSimulationConfig(
        model="solid_state", rings=96, columns=700, horizontal_fov=60.0, top_elevation=7.0,
        bottom_elevation=-13.0,
    )  # fmt: skip
    azimuth, elevation = (np.degrees(v) for v in beam_angles(config, "front"))
    assert np.abs(azimuth).max() < 31.0 and elevation.min() > -14.0 and elevation.max() < 8.0
    steps = -np.diff(elevation.mean(axis=1))
    assert steps.std() > 0.02  # the lines are not equally spaced
    assert (azimuth == np.degrees(beam_angles(config, "front")[0])).all()


@pytest.mark.parametrize("name", ["random:x", "random:-3", "no_such_rig"])
def test_unknown_rigs_are_rejected(name):
    with pytest.raises(UserError):
        open_rig(name)
