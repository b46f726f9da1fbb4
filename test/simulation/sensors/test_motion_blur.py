"""Motion blur: the way of each pixel in closed form, and the light that is spread along it."""

import numpy as np
import pytest

from multimodal_perception.geometry import poses
from multimodal_perception.geometry.cameras import CameraModel
from multimodal_perception.rig import OPTICAL
from multimodal_perception.simulation.sensors.camera import pixel_rays
from multimodal_perception.simulation.sensors.motion_blur import image_motion, smeared
from multimodal_perception.simulation.simulation import Simulation
from multimodal_perception.simulation.world.materials import Material
from multimodal_perception.simulation.world.meshes import block
from multimodal_perception.simulation.world.placing import labelled, scenic
from multimodal_perception.simulation.world.scene import Scene, rays_from
from test.simulation.rigs import small_rig, street

MODEL = CameraModel.pinhole(80, 64, 100.0)
WALL = block((5.0, -20, -20), (5.2, 20, 20), Material.BRICK)


def motion(scene, move, turn=(0.0, 0.0, 0.0), seconds=0.01):
    """The way of each pixel of a camera at the origin that looks along x."""
    directions, _ = pixel_rays(MODEL)
    hits = scene.cast(rays_from(OPTICAL, directions))
    ends = [
        poses.from_xyz_rpy(np.array(move) * h, np.array(turn) * h) @ OPTICAL for h in (-0.5, 0.5)
    ]
    return image_motion(MODEL, scene, hits, directions, OPTICAL, tuple(ends), seconds)


def test_a_wall_passes_by_as_far_as_it_should():
    way = motion(Scene.of([scenic(WALL, "wall")]), (0.0, 0.2, 0.0))
    # To the left by 0.2 m before a wall at 5 m: it goes to the right by 100 px * 0.2 / 5.
    np.testing.assert_allclose(way[..., 0], 4.0, atol=1e-3)
    np.testing.assert_allclose(way[..., 1], 0.0, atol=1e-3)


def test_ahead_it_flows_out_of_the_middle_and_a_turn_moves_all():
    way = motion(Scene.of([scenic(WALL, "wall")]), (0.25, 0.0, 0.0))
    assert way[32, 76, 0] == pytest.approx(0.05 * 36.5, abs=0.2)
    assert way[32, 4, 0] == pytest.approx(-0.05 * 35.5, abs=0.2)
    turned = motion(Scene.of([scenic(WALL, "wall")]), (0, 0, 0), (0.0, 0.0, 0.02))
    assert turned[32, 40, 0] == pytest.approx(2.0, abs=0.05)


def test_what_goes_with_the_camera_stays_sharp_and_the_sky_only_turns():
    beside = labelled("car", WALL, (0.0, 0.0, 0.0), 0.0, 1, velocity=(0.0, 20.0))
    way = motion(Scene.of([beside]), (0.0, 0.2, 0.0), seconds=0.01)
    np.testing.assert_allclose(way, 0.0, atol=1e-3)
    empty = motion(Scene.of([scenic(block((-9, -1, -1), (-8, 1, 1), Material.BRICK), "wall")]),
                   (0.0, 0.2, 0.0))  # fmt: skip
    assert np.abs(empty).max() < 0.1


def test_light_is_spread_along_the_way_and_none_is_lost():
    light = np.zeros((9, 41, 3), np.float32)
    light[:, 20] = 1.0
    way = np.zeros((9, 41, 2), np.float32)
    np.testing.assert_array_equal(smeared(light, way), light)
    way[..., 0] = 8.0
    wide = smeared(light, way)
    assert wide.sum() == pytest.approx(light.sum(), rel=1e-4)
    assert 8 <= (wide[4, :, 0] > 0).sum() <= 10
    assert wide[4, :, 0].argmax() == pytest.approx(20, abs=5)


def test_a_longer_exposure_is_less_sharp_in_the_drive():
    sharpness = []
    for shutter in (0.0, 0.002, 0.03):
        rig = small_rig(noise=False, camera={"shutter": shutter}, fisheye={"shutter": shutter})
        frame = Simulation(street(), rig, 3, 5)[0]
        bottom = frame.cameras["fisheye"].pixels[80:].astype(float).mean(axis=2)
        sharpness.append(np.abs(np.diff(bottom, axis=0)).mean())
    assert sharpness[0] >= sharpness[1] > 1.1 * sharpness[2]
