"""Motion blur: comparison of the pixels' motion with closed forms, and conservation of light."""

import numpy as np
import pytest

from multimodal_perception.geometry import poses
from multimodal_perception.geometry.cameras import CameraModel
from multimodal_perception.sensor_calibration import BODY_FROM_OPTICAL
from multimodal_perception.simulation.sensors.camera import pixel_rays
from multimodal_perception.simulation.sensors.motion_blur import apply_motion_blur, pixel_motion
from multimodal_perception.simulation.simulation import Simulation
from multimodal_perception.simulation.world.materials import Material
from multimodal_perception.simulation.world.meshes import cuboid
from multimodal_perception.simulation.world.scene import Scene, rays_from_pose
from multimodal_perception.simulation.world.scene_objects import labelled_object, scenery_object
from test.simulation.rigs import small_rig, street

MODEL = CameraModel.pinhole(80, 64, 100.0)
WALL = cuboid((5.0, -20, -20), (5.2, 20, 20), Material.BRICK)


def simulate_motion(scene, move, rotation=(0.0, 0.0, 0.0), seconds=0.01):
    """Motion (H, W, 2) of the pixels of a camera at the origin with its optical axis along x."""
    directions, _ = pixel_rays(MODEL)
    hits = scene.cast_rays(rays_from_pose(BODY_FROM_OPTICAL, directions))
    ends = [
        poses.from_xyz_rpy(np.array(move) * h, np.array(rotation) * h) @ BODY_FROM_OPTICAL
        for h in (-0.5, 0.5)
    ]
    return pixel_motion(MODEL, scene, hits, directions, BODY_FROM_OPTICAL, tuple(ends), seconds)


def test_lateral_motion_shifts_a_wall_by_the_expected_number_of_pixels():
    motion_field = simulate_motion(
        Scene.from_objects([scenery_object(WALL, "wall")]), (0.0, 0.2, 0.0)
    )
    # The camera moves 0.2 m to the left, 5 m from a wall, which moves by 100 px * 0.2 / 5 to the right.
    np.testing.assert_allclose(motion_field[..., 0], 4.0, atol=1e-3)
    np.testing.assert_allclose(motion_field[..., 1], 0.0, atol=1e-3)


def test_forward_motion_expands_from_the_centre_and_rotation_shifts_all_pixels():
    motion_field = simulate_motion(
        Scene.from_objects([scenery_object(WALL, "wall")]), (0.25, 0.0, 0.0)
    )
    assert motion_field[32, 76, 0] == pytest.approx(0.05 * 36.5, abs=0.2)
    assert motion_field[32, 4, 0] == pytest.approx(-0.05 * 35.5, abs=0.2)
    rotated = simulate_motion(
        Scene.from_objects([scenery_object(WALL, "wall")]), (0, 0, 0), (0.0, 0.0, 0.02)
    )
    assert rotated[32, 40, 0] == pytest.approx(2.0, abs=0.05)


def test_objects_moving_with_the_camera_and_the_sky_are_not_blurred_by_translation():
    moving = labelled_object("car", WALL, (0.0, 0.0, 0.0), 0.0, 1, velocity=(0.0, 20.0))
    motion_field = simulate_motion(Scene.from_objects([moving]), (0.0, 0.2, 0.0), seconds=0.01)
    np.testing.assert_allclose(motion_field, 0.0, atol=1e-3)
    behind = scenery_object(cuboid((-9, -1, -1), (-8, 1, 1), Material.BRICK), "wall")
    sky_motion = simulate_motion(Scene.from_objects([behind]), (0.0, 0.2, 0.0))
    assert np.abs(sky_motion).max() < 0.1


def test_blur_spreads_light_along_the_motion_and_conserves_it():
    light = np.zeros((9, 41, 3), np.float32)
    light[:, 20] = 1.0
    motion_field = np.zeros((9, 41, 2), np.float32)
    np.testing.assert_array_equal(apply_motion_blur(light, motion_field), light)
    motion_field[..., 0] = 8.0
    blurred = apply_motion_blur(light, motion_field)
    assert blurred.sum() == pytest.approx(light.sum(), rel=1e-4)
    assert 8 <= (blurred[4, :, 0] > 0).sum() <= 10
    assert blurred[4, :, 0].argmax() == pytest.approx(20, abs=5)


def test_a_longer_exposure_gives_less_sharp_images():
    sharpness = []
    for shutter_time in (0.0, 0.002, 0.03):
        rig = small_rig(
            noise=False,
            camera={"shutter_time_s": shutter_time},
            fisheye={"shutter_time_s": shutter_time},
        )
        frame = Simulation(street(), rig, 3, 5)[0]
        bottom = frame.cameras["fisheye"].pixels[80:].astype(float).mean(axis=2)
        sharpness.append(np.abs(np.diff(bottom, axis=0)).mean())
    assert sharpness[0] >= sharpness[1] > 1.1 * sharpness[2]
