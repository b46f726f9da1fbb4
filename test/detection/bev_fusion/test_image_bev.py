"""Lifting and sampling of image features: closed forms, any number and order of images, torch."""

from __future__ import annotations

import dataclasses
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from multimodal_perception.detection.bev_fusion.image_bev import (
    FrameImage,
    ImageSet,
    lift_images,
    sample_images,
)
from multimodal_perception.detection.bev_fusion.image_view import ImageView
from multimodal_perception.geometry import poses
from multimodal_perception.networks import image_lift
from multimodal_perception.pointcloud.ground_segmentation import GroundModel
from test.detection.bev_fusion.small_images import (
    SMALL,
    camera_model,
    camera_pose,
    image_at_range,
    random_image,
)

C, HEIGHTS, SIZE = SMALL.channels, len(SMALL.lift_heights), SMALL.lift_size
CENTRES = (np.arange(SIZE) + 0.5) * SMALL.lift_cell - SMALL.pillars.half_extent
OFFSET = {"camera": 0, "thermal": SMALL.modality_channels}


def cell_positions() -> NDArray[np.float64]:
    """Centres (G * G, heights, 3) of the lift grid."""
    y, x = np.meshgrid(CENTRES, CENTRES, indexing="ij")
    columns = [np.stack([x, y, np.full_like(x, z)], -1) for z in SMALL.lift_heights]
    return np.stack(columns, 2).reshape(-1, HEIGHTS, 3)


def projected(image: FrameImage, points: NDArray) -> image_lift.ProjectedImage:
    local = poses.transform_points(poses.inverse(image.view.base_from_optical), points)
    pixels, visible = image.view.model.project(local)
    return image_lift.ProjectedImage(
        image.modality,
        torch.from_numpy(image.features),
        torch.from_numpy(image.ranges),
        torch.from_numpy(np.nan_to_num(pixels)),
        torch.from_numpy(visible),
        torch.from_numpy(np.linalg.norm(local, axis=1)),
        None if image.paint is None else torch.from_numpy(image.paint),
    )


def rig() -> list[FrameImage]:
    return [
        random_image(1),
        random_image(2, yaw=0.4),
        random_image(3, yaw=2.5, fisheye=True),
        random_image(4, yaw=0.1, modality="thermal"),
        random_image(5, yaw=-2.0, modality="thermal", painted=False),
    ]


def test_kernels_agree_with_the_differentiable_functions() -> None:
    lifted = lift_images(ImageSet(rig()), SMALL)
    points = cell_positions().reshape(-1, 3)
    expected = image_lift.lift([projected(i, points) for i in rig()], SMALL)
    np.testing.assert_allclose(lifted, expected.numpy(), atol=1e-4)
    assert (np.abs(lifted).max(axis=0) > 1e-3).all()  # every channel is used
    sampled = sample_images(points, ImageSet(rig()), SMALL)
    expected = image_lift.sample([projected(i, points) for i in rig()], SMALL)
    np.testing.assert_allclose(sampled, expected.numpy(), atol=1e-4)


def test_gradients_reach_features_and_ranges() -> None:
    image = projected(random_image(1), cell_positions().reshape(-1, 3))
    features, ranges = image.features.requires_grad_(), image.ranges.requires_grad_()
    image_lift.lift([image._replace(features=features, ranges=ranges)], SMALL).sum().backward()
    assert features.grad is not None and features.grad.abs().sum() > 0
    assert ranges.grad is not None and ranges.grad.abs().sum() > 0


@given(st.permutations(range(5)))
@settings(max_examples=15, deadline=None)
def test_order_of_images_does_not_matter(order: list[int]) -> None:
    points = cell_positions().reshape(-1, 3)[::7]
    shuffled = ImageSet([rig()[k] for k in order])
    np.testing.assert_allclose(
        lift_images(shuffled, SMALL), lift_images(ImageSet(rig()), SMALL), atol=1e-5
    )
    np.testing.assert_allclose(
        sample_images(points, shuffled, SMALL),
        sample_images(points, ImageSet(rig()), SMALL),
        atol=1e-5,
    )


def test_image_that_shows_no_cell_changes_nothing() -> None:
    upwards = random_image(9)
    pose = poses.from_xyz_rpy((0.0, 0.0, 6.0), (0.0, -np.pi / 2, 0.0)) @ camera_pose(xyz=(0, 0, 0))
    sky = dataclasses.replace(upwards, view=ImageView(upwards.view.model, pose))
    before, after = (lift_images(ImageSet(i), SMALL) for i in (rig(), [*rig(), sky]))
    np.testing.assert_array_equal(before, after)
    points = cell_positions().reshape(-1, 3)
    np.testing.assert_array_equal(
        sample_images(points, ImageSet(rig()), SMALL),
        sample_images(points, ImageSet([*rig(), sky]), SMALL),
    )


def test_identical_images_have_the_mean_of_one() -> None:
    one, three = (lift_images(ImageSet([random_image(1)] * n), SMALL) for n in (1, 3))
    np.testing.assert_allclose(one, three, atol=1e-5)


def test_without_images_everything_is_zero() -> None:
    assert not lift_images(ImageSet(), SMALL).any()
    assert not sample_images(np.ones((3, 3), np.float32), ImageSet(), SMALL).any()
    shapes = (
        lift_images(ImageSet(), SMALL).shape,
        sample_images(np.zeros((0, 3)), ImageSet(rig()), SMALL).shape,
    )
    assert shapes == ((SIZE**2, SMALL.lift_channels), (0, 2 * SMALL.sample_channels))


@pytest.mark.parametrize("fisheye", [False, True])
@pytest.mark.parametrize("distance", [4.0, 9.0])
@pytest.mark.parametrize("yaw", [0.0, 2.0])
def test_features_are_lifted_to_the_predicted_range(
    fisheye: bool, distance: float, yaw: float
) -> None:
    lifted = lift_images(ImageSet([image_at_range(distance, yaw, fisheye)]), SMALL)
    positions = cell_positions()
    base_from_optical = camera_pose(yaw)
    local = poses.transform_points(poses.inverse(base_from_optical), positions.reshape(-1, 3))
    _, visible = camera_model(fisheye=fisheye).project(local)
    visible = visible.reshape(positions.shape[:2])
    ranges = np.linalg.norm(positions - base_from_optical[:3, 3], axis=2)
    weights = lifted[:, C : C + HEIGHTS]
    edges = SMALL.range_edges
    k = int(SMALL.range_bin(np.array(distance)))
    tolerance = np.maximum(SMALL.lift_cell / 2, ranges / 2 * (edges[1] / edges[0] - 1))
    low, high = ranges - tolerance, ranges + tolerance
    overlap = np.clip(np.minimum(high, edges[k + 1]) - np.maximum(low, edges[k]), 0, None)
    expected = np.where(visible, overlap / (edges[k + 1] - edges[k]), 0.0)
    np.testing.assert_allclose(weights, expected, atol=1e-4)
    assert (expected > 0.9).sum() > 3 and visible.sum() > 50
    # Features are ones, so that their mean is that of the weights over the heights that are shown.
    shown = visible.sum(axis=1)
    mean = expected.sum(axis=1) / np.maximum(shown, 1)
    np.testing.assert_allclose(lifted[:, :C], np.repeat(mean[:, None], C, 1), atol=1e-4)
    np.testing.assert_array_equal(lifted[:, C + HEIGHTS + 1], shown > 0)
    beyond = visible & (low > edges[k + 1])
    nearer = lifted[:, C + HEIGHTS]
    np.testing.assert_allclose(nearer[beyond.sum(1) == HEIGHTS], 1.0, atol=1e-5)
    in_front = (high < edges[k]).all(axis=1) & (shown > 0)
    assert in_front.any() and not nearer[in_front].any()


def test_surface_beyond_the_last_bin_is_lifted_nowhere() -> None:
    lifted = lift_images(ImageSet([image_at_range(1e3)]), SMALL)
    assert lifted[:, C + HEIGHTS + 1].any()
    assert not lifted[:, : C + HEIGHTS + 1].any()


def test_point_at_a_known_pixel_gets_the_feature_of_that_pixel() -> None:
    image = image_at_range(6.0)
    features = np.zeros_like(image.features)
    features[10, 15] = 5.0  # of the pixels around (61.5, 41.5)
    image = dataclasses.replace(image, features=features)
    ray = image.view.model.unproject([[61.5, 41.5]])[0]
    for distance, weight in ((6.0, 1.0), (12.0, 0.0)):
        point = poses.transform_points(image.view.base_from_optical, distance * ray[None])
        sampled = sample_images(point, ImageSet([image]), SMALL)[0]
        np.testing.assert_allclose(sampled[:C], 5.0, atol=1e-3)
        assert abs(sampled[C] - weight) < 0.3 and sampled[C + 1] == 1.0
        assert not sampled[C + 2 :].any()  # no thermal image


def test_heights_are_measured_from_the_ground() -> None:
    image = random_image(1)
    ground = GroundModel(np.full((8, 40), 0.7, np.float32), 0.5)
    lowered = dataclasses.replace(
        image, view=ImageView(image.view.model, camera_pose(xyz=(0.5, 0.1, 1.5 - 0.7)))
    )
    lifted = lift_images(ImageSet([image], ground), SMALL)
    close = np.isclose(lifted, lift_images(ImageSet([lowered]), SMALL), atol=1e-3).all(axis=1)
    assert close.mean() > 0.99  # cells at the border of the image may differ by rounding
    assert np.abs(lifted - lift_images(ImageSet([image]), SMALL)).max() > 0.1


def test_augmented_grid_shows_the_same_places() -> None:
    mirrored = np.diag([1.0, -1.0, 1.0, 1.0])
    plain = lift_images(ImageSet(rig()), SMALL).reshape(SIZE, SIZE, -1)
    moved = lift_images(ImageSet(rig(), base_from_grid=mirrored), SMALL).reshape(SIZE, SIZE, -1)
    np.testing.assert_allclose(moved, plain[::-1], atol=1e-4)


def test_masked_boxes_hide_cells_and_points() -> None:
    box = np.array([[6.0, 0.0, 0.8, 4.0, 2.0, 1.6, 0.3]], np.float32)
    masked = ImageSet([random_image(1)], masked_boxes=box)
    inside, outside = np.array([[6.0, 0.2, 1.0]]), np.array([[6.0, 3.0, 1.0]])
    assert not sample_images(inside, masked, SMALL).any()
    assert sample_images(outside, masked, SMALL).any()
    difference = lift_images(masked, SMALL) - lift_images(ImageSet([random_image(1)]), SMALL)
    changed = np.abs(difference).max(axis=1).reshape(SIZE, SIZE) > 0
    rows, columns = np.nonzero(changed)
    assert len(rows) and np.hypot(CENTRES[columns] - 6.0, CENTRES[rows]).max() < 2.5


def test_threads_do_not_change_the_result() -> None:
    images, points = ImageSet(rig()), np.tile(cell_positions().reshape(-1, 3), (2, 1))
    with ThreadPoolExecutor(2) as executor:
        lifted = lift_images(images, SMALL, executor)
        sampled = sample_images(points, images, SMALL, executor)
    np.testing.assert_array_equal(lifted, lift_images(images, SMALL))
    np.testing.assert_array_equal(sampled, sample_images(points, images, SMALL))


def test_more_images_than_any_fixed_number() -> None:
    many = [random_image(k, yaw=0.2 * k) for k in range(20)]
    assert np.isfinite(lift_images(ImageSet(many), SMALL)).all()


def test_features_and_ranges_that_do_not_fit_are_refused() -> None:
    image = random_image(1)
    wrong = dataclasses.replace(image, ranges=image.ranges[:, :-1])
    with pytest.raises(ValueError, match="do not fit"):
        lift_images(ImageSet([wrong]), SMALL)
    assert image.paint is not None
    wrong = dataclasses.replace(image, paint=image.paint[..., :-1])
    with pytest.raises(ValueError, match="paint"):
        sample_images(np.ones((1, 3)), ImageSet([wrong]), SMALL)
