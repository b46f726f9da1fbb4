"""Simulated cameras: agreement of their ground truth with LiDAR points, fisheye projection."""

import numpy as np
import pytest

from multimodal_perception.geometry import poses


@pytest.mark.parametrize("camera", ["camera", "fisheye"])
def test_lidar_points_project_onto_their_instance(noiseless_drive, camera):
    checked = correct = num_visible = 0
    for index in (0, 6, 12):
        observation = noiseless_drive.observe(index)
        frame, truth = observation.frame, observation.truth
        pose = poses.inverse(frame.base_from_sensor[camera]) @ frame.base_from_sensor["lidar"]
        points = frame.lidars["lidar"].points[:, :3].astype(np.float64)
        in_camera = poses.transform_points(pose, points)
        pixels, visible = frame.intrinsics[camera].project(in_camera)
        view = truth.views[camera]
        rows, columns = view.depth.shape
        u, v = np.rint(np.where(visible[:, None], pixels, 0)).astype(int).T
        visible &= (u > 0) & (v > 0) & (u < columns - 1) & (v < rows - 1)
        u, v, distance = u[visible], v[visible], np.linalg.norm(in_camera[visible], axis=1)
        # Distances along the ray, because a fisheye's rays can be perpendicular to its axis.
        grid = np.stack(np.meshgrid(np.arange(columns), np.arange(rows)), -1).reshape(-1, 2)
        along = frame.intrinsics[camera].unproject(grid)[:, 2].reshape(rows, columns)
        ray_length = view.depth / np.where(np.abs(along) > 1e-3, along, np.nan)
        hit = truth.points["lidar"].instances[visible]
        semantic = truth.points["lidar"].semantics[visible]
        offsets = [(i, j) for i in (-1, 0, 1) for j in (-1, 0, 1)]
        instances = np.array([view.instances[v + i, u + j] for i, j in offsets])
        semantics = np.array([view.semantics[v + i, u + j] for i, j in offsets])
        distances = np.array([ray_length[v + i, u + j] for i, j in offsets])
        inner = (instances == instances[0]).all(axis=0) & (semantics == semantics[0]).all(axis=0)
        # Ignore points that the camera cannot show: occluded ones and objects thinner than a pixel.
        inner &= (distance < distances.max(axis=0) * 1.01 + 0.05) & (
            distance > distances.min(axis=0) * 0.99 - 0.05
        )
        checked += int(inner.sum())
        num_visible += len(inner)
        correct += int(((instances[4] == hit) & (semantics[4] == semantic))[inner].sum())
    assert checked > 0.5 * num_visible > 600
    assert correct / checked > 0.995


def test_fisheye_projection_inverts_unprojection(noiseless_drive):
    model = noiseless_drive[0].intrinsics["fisheye"]
    pixels = np.random.default_rng(0).uniform((5, 5), (150, 110), (500, 2))
    projected, visible = model.project(model.unproject(pixels) * 7.0)
    assert visible.all()
    np.testing.assert_allclose(projected, pixels, atol=1e-6)
