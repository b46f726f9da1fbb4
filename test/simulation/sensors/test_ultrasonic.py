"""Simulated ultrasonic sensors: nearest echo, limits and detection threshold."""

import math

import numpy as np
import pytest

from multimodal_perception.geometry import poses
from multimodal_perception.simulation.sensors.ultrasonic import (
    SimulatedUltrasonic,
    nearest_echo_ranges,
)
from multimodal_perception.simulation.world.materials import Material
from multimodal_perception.simulation.world.meshes import cuboid, rectangle
from multimodal_perception.simulation.world.scene import Scene
from multimodal_perception.simulation.world.scene_objects import scenery_object
from test.simulation.rigs import scene_at, small_rig


def sonar(**config):
    """A noiseless ultrasonic sensor with changed parameters."""
    rig = small_rig(noise=False, sonar=config)
    return SimulatedUltrasonic(rig.sensors["sonar"])


def measured_range(sensor, *objects, pose=None):
    pose = poses.from_xyz_rpy((0, 0, 1.0)) if pose is None else pose
    echo = nearest_echo_ranges([sensor], Scene.from_objects(list(objects)), {sensor.name: pose})[
        sensor.name
    ]
    return sensor.measure(echo, (), 0, np.random.default_rng(0)).range_m


def wall(x, material=Material.CONCRETE, y0=-3, y1=3):
    return scenery_object(cuboid((x, y0, 0), (x + 0.2, y1, 3), material), "wall")


@pytest.mark.parametrize("distance", [0.2, 0.5, 1.0, 2.34, 4.0])
def test_an_ultrasonic_sensor_measures_the_nearest_hit_in_its_cone(distance):
    sensor = sonar(rays=2000, resolution=0.01)
    assert measured_range(sensor, wall(distance)) == pytest.approx(distance, abs=0.011)
    assert measured_range(sensor, wall(distance), wall(distance + 0.4)) == pytest.approx(
        distance, abs=0.011
    )


def test_ranges_out_of_limits_follow_rep_117():
    assert measured_range(sonar(), wall(0.05)) == -math.inf
    assert measured_range(sonar(), wall(6.0)) == math.inf
    beside = wall(1.0, y0=4.0, y1=6.0)
    assert measured_range(sonar(), beside) == math.inf


def test_the_road_under_a_bumper_is_not_detected():
    road = scenery_object(rectangle(-20, 20, -20, 20, 0.0, Material.ASPHALT), "road")
    bumper = poses.from_xyz_rpy((0, 0, 0.5))
    assert measured_range(sonar(), road, pose=bumper) == math.inf
    assert measured_range(sonar(), road, wall(2.0), pose=bumper) == pytest.approx(2.0, abs=0.011)


def test_a_slanted_wall_and_cloth_reflect_less():
    rotated = poses.from_xyz_rpy((0, 0, 1.0), (0, 0, math.radians(80)))
    assert measured_range(sonar(), wall(1.5), pose=rotated) == math.inf
    assert measured_range(sonar(echo_threshold=0.03), wall(4.0, Material.CLOTH)) == math.inf
    assert measured_range(sonar(echo_threshold=0.03), wall(4.0)) == pytest.approx(4.0, abs=0.05)


def test_more_rays_do_not_change_the_range_by_more_than_the_resolution(noiseless_drive):
    observation = noiseless_drive.observe(2)
    scene = scene_at(noiseless_drive, 2)
    pose = scene.sensor_pose(observation.frame.odom_from_base, noiseless_drive._extrinsics["sonar"])
    fine = nearest_echo_ranges([sonar(rays=20000)], scene, {"sonar": pose})["sonar"]
    coarse = observation.truth.ultrasonic_ranges["sonar"]
    assert coarse >= fine - 1e-6
    assert coarse == pytest.approx(fine, abs=0.01)
