"""Simulated LiDARs: points on the meshes, motion distortion, beam tables and weather."""

import numpy as np
import pytest

from multimodal_perception.geometry import poses
from multimodal_perception.simulation.sensors.lidar import beam_table
from multimodal_perception.simulation.simulation import Simulation
from test.simulation.rigs import scene_at, small_rig, street


def distance_to_triangle(scene, points, triangles):
    """Distance (N,) of points (N, 3) from the planes of their triangles in metres, in float64."""
    a, b, c = scene.triangles.corners[triangles].astype(np.float64).transpose(1, 0, 2)
    normal = np.cross(b - a, c - a)
    normal /= np.linalg.norm(normal, axis=1, keepdims=True)
    return np.abs(np.einsum("ij,ij->i", points - a, normal))


@pytest.mark.parametrize("motion_distortion", [False, True])
def test_every_noiseless_point_lies_on_its_mesh(motion_distortion):
    rig = small_rig(noise=False, lidar={"motion_distortion": motion_distortion})
    drive = Simulation(street(), rig, seed=3, frames=20)
    (lidar,) = drive._lidars
    for index in (0, 7):
        frame, scene = drive.observe(index).frame, scene_at(drive, index)
        sweep, base_from_sensor = frame.lidars["lidar"], frame.base_from_sensor["lidar"]

        def pose_at(offset, index=index):
            return drive.odometry(drive.stamp_ns(index) + round(offset * 1e9))

        hits = scene.cast_rays(lidar._firing_rays(scene, base_from_sensor, pose_at))
        range_limits = lidar.config.min_range, lidar.config.max_range
        triangles = hits.triangle[
            (hits.distance > range_limits[0]) & (hits.distance < range_limits[1])
        ]
        assert len(triangles) == len(sweep.points) > 3000
        points = np.empty((len(triangles), 3))
        for offset in np.unique(sweep.time_offsets):
            is_current = sweep.time_offsets == offset
            pose = scene.sensor_pose(pose_at(float(offset)), base_from_sensor)
            points[is_current] = poses.transform_points(
                pose, sweep.points[is_current, :3].astype(np.float64)
            )
        assert distance_to_triangle(scene, points, triangles).max() < 1e-3


def test_deskewing_removes_the_distortion():
    moving = Simulation(street(), small_rig(noise=False), seed=3, frames=20)
    raw, deskewed = moving.observe(5).frame.lidars["lidar"], moving[5].lidars["lidar"]
    assert np.ptp(raw.time_offsets) == pytest.approx(0.1, rel=0.01)
    frame, scene = moving[5], scene_at(moving, 5)
    pose = scene.sensor_pose(frame.odom_from_base, frame.base_from_sensor["lidar"])
    # Deskewing does not correct the motion of moving objects.
    is_static = moving.truth(5).points["lidar"].instances == 0
    distances = []
    for sweep in (raw, deskewed):
        world = poses.transform_points(pose, sweep.points[is_static, :3].astype(np.float64))
        direction = world - pose[:3, 3]
        direction /= np.linalg.norm(direction, axis=1, keepdims=True)
        origin = np.broadcast_to(pose[:3, 3], direction.shape)
        hit = scene.cast_rays(np.hstack([origin, direction]).astype(np.float32)).triangle
        assert np.mean(hit >= 0) > 0.98
        distances.append(distance_to_triangle(scene, world[hit >= 0], hit[hit >= 0]))
    assert np.percentile(distances[1], 95) < 0.003
    assert np.percentile(distances[0], 95) > 0.05


def test_beam_tables_agree_with_the_manuals():
    assert beam_table("hdl64")[[0, -1]] == pytest.approx([2.0, -24.33], abs=0.01)
    assert beam_table("hdl32")[[0, -1]] == pytest.approx([10.67, -30.67], abs=0.01)
    assert beam_table("vlp16")[[0, -1]] == pytest.approx([15.0, -15.0])
    for model, rings in (("hdl64", 64), ("hdl32", 32), ("vlp16", 16)):
        assert len(beam_table(model)) == rings
        assert (np.diff(beam_table(model)) < 0).all()


def test_fog_and_rain_reduce_the_number_of_distant_points():
    counts = []
    for modifiers in ((), ("rain=40",), ("fog=40",)):
        drive = Simulation(street(), small_rig(), 3, 5, modifiers)
        sweep = drive.observe(0)
        far = np.linalg.norm(sweep.frame.lidars["lidar"].points[:, :3], axis=1) > 25
        counts.append(int(far.sum()))
    assert counts[0] > counts[1] > counts[2]
