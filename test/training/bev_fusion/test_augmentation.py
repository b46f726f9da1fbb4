"""Augmentation of points, boxes and intensities."""

from __future__ import annotations

import numpy as np

from multimodal_perception.geometry.boxes import count_points_in_boxes, points_in_box
from multimodal_perception.simulation.sensors.lidar import beam_table
from multimodal_perception.training.bev_fusion.augmentation import (
    AugmentationConfig,
    draw_transform,
    drop_beams,
    perturb_points,
    scale_object_intensities,
    transform_boxes,
    transform_point_cloud,
)


def test_transforms_keep_points_inside_their_boxes() -> None:
    rng = np.random.default_rng(0)
    boxes = np.array([[6.0, -2.0, 0.8, 4.2, 1.8, 1.6, 0.3]], np.float32)
    points = rng.uniform((-1, -6, 0, 0), (12, 3, 2, 1), (2000, 4)).astype(np.float32)
    before = count_points_in_boxes(points, boxes, 0.01)
    assert before[0] > 100
    for seed in range(20):
        transform = draw_transform(AugmentationConfig(rotation=3.0), np.random.default_rng(seed))
        after = count_points_in_boxes(
            transform_point_cloud(points, transform),
            transform_boxes(boxes, transform),
            0.02,
        )
        assert after[0] >= before[0]


def test_beam_dropout_keeps_beams_at_the_spacing_of_other_lidars() -> None:
    lidar = np.array([0.3, -0.2, 1.8], np.float32)
    elevation, azimuth = np.meshgrid(beam_table("hdl64"), np.arange(360.0))
    e, a = np.radians(elevation.ravel()), np.radians(azimuth.ravel())
    directions = np.column_stack([np.cos(e) * np.cos(a), np.cos(e) * np.sin(a), np.sin(e)])
    points = np.column_stack([lidar + 20.0 * directions, np.ones(len(e))]).astype(np.float32)
    always, counts = AugmentationConfig(beam_dropout=1.0), []
    for seed in range(40):
        kept = drop_beams(points, lidar, always, np.random.default_rng(seed))
        rings = np.unique(np.degrees(np.arcsin((kept[:, 2] - lidar[2]) / 20.0)).round(2))
        counts.append(len(rings))
        assert (np.diff(rings) > 0.35).all()  # no adjacent beams
    height = 26.8  # degrees from an HDL-64E's highest ring to its lowest
    assert min(counts) <= height / 2.0 + 1 and max(counts) >= 0.7 * height / (2 / 3)
    assert drop_beams(points, lidar, AugmentationConfig(), np.random.default_rng(0)) is points


def test_object_intensity_scale_differs_between_objects() -> None:
    rng = np.random.default_rng(1)
    boxes = np.array([[4, 2, 1, 4, 2, 2, 0.7], [-6, 1, 1, 10, 2.5, 3, -2.0]], np.float32)
    points = rng.uniform(-12, 12, (20_000, 4)).astype(np.float32)
    points[:, 2], points[:, 3] = points[:, 2] / 6 + 1, 0.5
    before = points.copy()
    after = scale_object_intensities(
        points, boxes, AugmentationConfig(object_intensity_scale=0.6), rng
    )
    assert (points == before).all() and (after[:, :3] == before[:, :3]).all()
    gains = []
    for box in boxes:
        inside = points_in_box(points, box)
        gains.append(after[inside, 3].mean() / 0.5)
        np.testing.assert_allclose(after[inside, 3], 0.5 * gains[-1], rtol=1e-5)
    assert abs(gains[0] - gains[1]) > 0.01 and all(0.4 <= g <= 1.6 for g in gains)
    elsewhere = ~(points_in_box(points, boxes[0]) | points_in_box(points, boxes[1]))
    assert (after[elsewhere, 3] == 0.5).all()
    assert scale_object_intensities(points, boxes, AugmentationConfig(), rng) is points


def test_intensity_gamma_keeps_the_order_and_the_limits_of_intensities() -> None:
    points = np.zeros((256, 4), np.float32)
    points[:, 3] = np.linspace(0, 1, 256)
    config = AugmentationConfig(point_dropout=0.0, intensity_scale=0.0, intensity_gamma=0.7)
    exponents = []
    for seed in range(30):
        after = perturb_points(points, config, np.random.default_rng(seed))[:, 3]
        assert after[0] == 0 and after[-1] == 1 and (np.diff(after) > 0).all()
        exponents.append(float(np.log(after[128]) / np.log(points[128, 3])))
    assert 0.49 < min(exponents) < 0.7 and 1.4 < max(exponents) < 2.02
