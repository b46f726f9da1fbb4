"""Attacks: their bounds, the gradient's inputs, and that they are stronger than chance."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch

from multimodal_perception.evaluation.robustness.attacked_pixels import (
    contrast_limits,
    image_pixels,
    pixel_bound,
    with_pixels,
)
from multimodal_perception.evaluation.robustness.image_gradient import (
    GradientTarget,
    area_resize,
    gradient_target,
    projected_gradient,
    thermal_input,
    visible_input,
)
from multimodal_perception.evaluation.robustness.search_attack import (
    attack_image,
    attack_points,
    square_side,
)
from multimodal_perception.frame import SensorFrame, UltrasonicReading
from multimodal_perception.images.rgb_thermal_inputs import (
    RgbThermalInputBuilder,
    RgbThermalSegmenterConfig,
)
from multimodal_perception.pointcloud.ground_segmentation import segment_ground
from multimodal_perception.runtime.card import load_card
from multimodal_perception.segmentation.rgb_thermal import RgbThermalSegmenter
from test.evaluation.robustness.frames import street_frame

FRAME = street_frame()


def test_projected_gradient_reaches_the_corner_of_the_bound() -> None:
    pixels = np.array([[100.0, 2.0], [253.0, 50.0]], np.float32)
    weights = torch.tensor([[1.0, -1.0], [1.0, -1.0]])
    target = GradientTarget(pixels, lambda x: (weights * x).sum(), 1.0)
    for levels in (1, 4, 8):
        expected = np.clip(pixels + levels * weights.numpy(), 0, 255)
        assert np.array_equal(projected_gradient(target, levels, 10, 255.0, seed=0), expected)


def test_bounds_are_levels_of_the_contrast_and_at_least_one_count() -> None:
    assert (
        pixel_bound(4, 1.0) == 4.0 and pixel_bound(1, 0.3) == 1.0 and pixel_bound(16, 2.5) == 40.0
    )
    low, high = contrast_limits(FRAME.thermals["thermal"])
    _, maximum, level = image_pixels(FRAME, "thermal")
    assert maximum == 65_535 and level == pytest.approx((high - low) / 255)
    assert image_pixels(FRAME, "camera")[1:] == (255.0, 1.0)


@pytest.mark.parametrize("size", [(36, 48), (41, 60), (72, 96), (100, 130)])
def test_the_differentiable_resize_is_that_of_opencv(size: tuple[int, int]) -> None:
    image = FRAME.cameras["camera"].pixels[..., 0].astype(np.float32)
    method = cv2.INTER_AREA if size[0] < 72 else cv2.INTER_LINEAR
    expected = cv2.resize(image, size[::-1], interpolation=method)
    result = area_resize(torch.from_numpy(image)[None], size)[0].numpy()
    assert result == pytest.approx(expected, abs=1e-3)


def test_the_inputs_of_the_gradient_are_those_of_the_pipeline() -> None:
    card = load_card("segmentation")
    config = RgbThermalSegmenterConfig()
    # Images that are larger than the network's input, as usual.
    large = {
        "camera": cv2.resize(FRAME.cameras["camera"].pixels, (640, 480)),
        "thermal": cv2.resize(FRAME.thermals["thermal"].pixels, (480, 400)),
    }
    frame = replace(
        FRAME,
        cameras={"camera": replace(FRAME.cameras["camera"], pixels=large["camera"])},
        thermals={"thermal": replace(FRAME.thermals["thermal"], pixels=large["thermal"])},
        intrinsics={
            "camera": FRAME.intrinsics["camera"].scaled(640 / 96, 480 / 72),
            "thermal": FRAME.intrinsics["thermal"].scaled(10.0, 10.0),
        },
    )
    for view in ("camera", "thermal"):
        builder = RgbThermalInputBuilder(card, config, Counter())
        arrays = builder.build(frame, view)
        assert arrays is not None
        if view == "camera":
            convert = visible_input(card, builder.scale(frame.intrinsics["camera"]), arrays)
            visible = convert(torch.from_numpy(image_pixels(frame, "camera")[0])).numpy()
            assert visible == pytest.approx(arrays["visible"], abs=1.01 / 128)  # rounded levels
        convert = thermal_input(card, builder, frame, view, "thermal", arrays)
        thermal = convert(torch.from_numpy(image_pixels(frame, "thermal")[0])).numpy()
        difference = np.abs(thermal - arrays["thermal"])
        assert np.quantile(difference, 0.99) < 0.02 and arrays["thermal"].max() > 0.5


@pytest.fixture(scope="module")
def segmenter() -> RgbThermalSegmenter:
    return RgbThermalSegmenter(engine=object())  # type: ignore[arg-type]  # the torch network is attacked


@pytest.mark.parametrize("sensor", ["camera", "thermal"])
def test_a_gradient_attack_changes_more_pixels_than_noise(
    sensor: str, segmenter: RgbThermalSegmenter
) -> None:
    cloud = segment_ground(FRAME)
    target = gradient_target(segmenter, FRAME, sensor, cloud)
    assert target is not None
    maximum = image_pixels(FRAME, sensor)[1]
    attacked = with_pixels(FRAME, sensor, projected_gradient(target, 8, 1, maximum, seed=1))
    bound = pixel_bound(8, target.level)
    signs = np.random.default_rng(0).choice([-1.0, 1.0], target.pixels.shape)
    noisy = with_pixels(FRAME, sensor, np.clip(target.pixels + bound * signs, 0, maximum))
    before, after = (image_pixels(f, sensor)[0] for f in (FRAME, attacked))
    assert 0 < np.abs(after - before).max() <= bound
    values = [
        float(target.objective(torch.from_numpy(image_pixels(f, sensor)[0])))
        for f in (noisy, attacked)
    ]
    assert values[1] > 1.1 * values[0]


def test_stages_without_torch_network_and_unused_sensors_have_no_gradient(
    segmenter: RgbThermalSegmenter,
) -> None:
    cloud = segment_ground(FRAME)
    assert gradient_target(object(), FRAME, "camera", cloud) is None
    without = replace(FRAME, intrinsics={})
    assert gradient_target(segmenter, without, "camera", cloud) is None


def test_points_move_along_their_rays_within_the_bound_and_lower_the_score() -> None:
    clean = FRAME.lidars["lidar"].points[:, :3].astype(float)
    ranges = np.linalg.norm(clean, axis=1)
    front = np.abs(np.arctan2(clean[:, 1], clean[:, 0])) < 0.5

    def score(frame: SensorFrame) -> float:
        moved = np.linalg.norm(frame.lidars["lidar"].points[:, :3], axis=1)
        return float((moved - ranges)[front].mean())

    results = [attack_points(FRAME, "lidar", 0.1, n, score, seed=0) for n in (1, 40, 40)]
    assert np.array_equal(*(r.lidars["lidar"].points for r in results[1:]))
    points = results[1].lidars["lidar"].points[:, :3]
    assert np.allclose(np.cross(clean, points), 0.0, atol=2e-3)
    moved = np.linalg.norm(points, axis=1) - ranges
    assert np.abs(moved).max() == pytest.approx(0.1, abs=1e-4)
    assert score(results[1]) < score(results[0]) and results[1].cameras is FRAME.cameras
    assert results[1].lidars["lidar"].rings is FRAME.lidars["lidar"].rings


@pytest.mark.parametrize("sensor", ["camera", "thermal"])
def test_a_search_on_an_image_stays_within_its_bound_and_its_runs(sensor: str) -> None:
    runs = []

    def score(frame: SensorFrame) -> float:
        pixels = image_pixels(frame, sensor)[0]
        runs.append(pixels)
        return float(pixels[: len(pixels) // 2].mean())

    attacked = attack_image(FRAME, sensor, 4, 25, score, seed=2)
    clean, _, level = image_pixels(FRAME, sensor)
    assert len(runs) == 25
    assert np.abs(image_pixels(attacked, sensor)[0] - clean).max() == pixel_bound(4, level)
    assert score(attacked) == min(r[: len(r) // 2].mean() for r in runs)


def test_the_squares_become_smaller_as_in_the_paper() -> None:
    sides = [square_side(q, 100, 100 * 100) for q in range(100)]
    assert sides == sorted(sides, reverse=True) and sides[0] == round((0.3 * 10_000) ** 0.5)
    assert sides[-1] == round((0.3 / 64 * 10_000) ** 0.5)


def test_an_empty_sweep_cannot_be_attacked_but_is_no_error() -> None:
    empty = replace(FRAME.lidars["lidar"], points=np.zeros((0, 4), np.float32), rings=None)
    frame = replace(FRAME, lidars={"lidar": empty})
    result = attack_points(frame, "lidar", 0.1, 2, lambda f: 1.0, seed=0)
    assert not len(result.lidars["lidar"].points)
    assert all(isinstance(r, UltrasonicReading) for r in result.ultrasonics.values())
