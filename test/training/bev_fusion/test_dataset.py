"""Training frames: missing sensors, augmentation, pasted objects, targets."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

from multimodal_perception.detection.bev_fusion.network_config import CLASSES
from multimodal_perception.detection.bev_fusion.pillars import PILLAR_CHANNELS
from multimodal_perception.detection.bev_fusion.sweep_pillars import PastSweep
from multimodal_perception.geometry.boxes import points_in_box
from multimodal_perception.training.bev_fusion.augmentation import AugmentationConfig
from multimodal_perception.training.bev_fusion.box_losses import UNLABELLED
from multimodal_perception.training.bev_fusion.dataset import (
    BevFusionDataset,
    BevFusionFrame,
    FrameOptions,
    collate,
)
from multimodal_perception.training.bev_fusion.frame_scene import (
    FrameScene,
    augment_points,
    perturb_alignment,
)
from multimodal_perception.training.bev_fusion.image_features import (
    feature_path,
    quantise_outputs,
    read_images,
    store_features,
)
from multimodal_perception.training.bev_fusion.object_sampling import open_object_sampling
from multimodal_perception.training.bev_fusion.painting import PaintingConfig
from multimodal_perception.training.bev_fusion.pasted_motion import (
    add_past_points,
    draw_velocities,
)
from multimodal_perception.training.bev_fusion.sample_files import (
    image_views,
    sample_paths,
)
from multimodal_perception.training.bev_fusion.sensor_dropout import (
    SensorDropoutConfig,
    draw_sensors,
)
from multimodal_perception.training.bev_fusion.stage_weights import load_encoders
from multimodal_perception.training.bev_fusion.targets import (
    FrameObjects,
    observability,
    stage1_targets,
)
from test.training.bev_fusion.tiny import TINY, sample_arrays

COMPLETE = SensorDropoutConfig(0, 0, 0, 0, 0, 0, 0)
STILL = AugmentationConfig(0, 0, 0, 0, 0, 0)


@pytest.fixture(scope="module")
def encoded(tiny_samples: Path, trained: dict[str, Path]) -> list[Path]:
    """The samples with stored outputs of the image networks."""
    paths = sample_paths(tiny_samples)
    store_features(paths, load_encoders(TINY, list(trained.values())), TINY, "fp32")
    return paths


def frame(paths: list[Path], index: int = 0, **options: object) -> BevFusionFrame:
    values = {"dropout": COMPLETE, **options}
    return BevFusionDataset(paths, TINY, FrameOptions(**values))[index]  # type: ignore[arg-type]


def test_a_frame_depends_on_seed_epoch_and_index_only(encoded: list[Path]) -> None:
    options = FrameOptions(AugmentationConfig(), SensorDropoutConfig(), teacher=True)
    first, second = (BevFusionDataset(encoded, TINY, options, 3) for _ in range(2))
    for data in (first, second):
        data.epoch = 2
    for index in (2, 0, 1):
        a, b = first[index], second[index]
        for name, values in a.arrays.items():
            np.testing.assert_array_equal(b.arrays[name], values, err_msg=name)
        assert (a.teacher is None) == (b.teacher is None)
    first.epoch = 3
    same = [
        np.array_equal(*(d[k].arrays["pillar_cells"] for d in (first, second))) for k in range(3)
    ]
    assert not all(same)


def test_without_lidar_the_frame_has_no_pillars_but_images(encoded: list[Path]) -> None:
    complete = frame(encoded)
    without = frame(encoded, dropout=dataclasses.replace(COMPLETE, lidar=1.0), teacher=True)
    assert complete.has_lidar and not without.has_lidar
    assert complete.arrays["pillars"].any() and not without.arrays["pillars"].any()
    assert complete.arrays["image_bev"].any() and without.arrays["image_bev"].any()
    assert without.arrays["frame_weight"] == COMPLETE.without_lidar_weight == 0.5
    assert without.teacher is not None and complete.teacher is None
    # Without augmentation, the teacher's frame is the complete one with all past sweeps.
    cells = [set(a["pillar_cells"].tolist()) for a in (complete.arrays, without.teacher)]
    assert cells[0] <= cells[1] and without.teacher["image_bev"].any()
    assert 0 < len(without.objects.boxes) < len(complete.objects.boxes)


def test_without_images_the_frame_has_the_lidar_alone(encoded: list[Path]) -> None:
    without = frame(encoded, dropout=dataclasses.replace(COMPLETE, images=1.0))
    assert without.arrays["pillars"].any() and not without.arrays["image_bev"].any()
    assert not without.arrays["pillar_images"].any() and not without.images.images
    paint = TINY.pillar_channels - 7
    assert not without.arrays["pillars"][:, paint:].any()
    lidar = frame(encoded, images=False)
    assert "image_bev" not in lidar.arrays


def test_past_sweeps_are_channels_of_the_pillars(encoded: list[Path]) -> None:
    with_past = frame(encoded).arrays["pillars"]
    without = frame(encoded, dropout=dataclasses.replace(COMPLETE, past_sweeps=1.0)).arrays[
        "pillars"
    ]
    channels = slice(PILLAR_CHANNELS, PILLAR_CHANNELS + 4 * TINY.past_sweeps)
    assert with_past[:, channels].any() and not without[:, channels].any()
    assert (with_past != 0).any(axis=1).sum() > (without != 0).any(axis=1).sum()


def test_painting_marks_the_points_that_images_show(encoded: list[Path]) -> None:
    always = PaintingConfig(0, 0, 0, 0, 0, 0, 0)
    painted = frame(encoded, painting=always).arrays["pillars"][:, -7:]
    never = frame(encoded, painting=PaintingConfig(missing_frames=1.0)).arrays["pillars"][:, -7:]
    assert not never.any() and 0.02 < (painted[:, -1] > 0).mean() < 0.9
    known = painted[painted[:, -1] > 0]
    np.testing.assert_allclose(known[:, :6].sum(axis=1), 1.0, atol=1e-4)
    assert (known[:, 0] > 0.4).any(), "cars"


def test_objects_and_points_move_together(encoded: list[Path]) -> None:
    """The points of an object are in its box whatever the augmentation."""
    turned = AugmentationConfig(0.8, 1.0, 0.1, 0.1, 0, 0)
    for augmentation in (STILL, turned):
        f = frame(encoded, augmentation=augmentation)
        inside = [points_in_box(f.points, box).sum() for box in f.objects.boxes]
        assert (np.array(inside) > 0).mean() > 0.8
    before, after = (
        frame(encoded, augmentation=STILL).objects,
        frame(encoded, augmentation=turned).objects,
    )
    speed = [np.linalg.norm(o.velocities, axis=1) for o in (before, after)]
    moving = speed[0] > 1
    ratio = speed[1][moving] / speed[0][moving]
    assert np.ptp(ratio) < 1e-4 and 0.9 <= ratio[0] <= 1.1
    headings = [
        np.cos(o.boxes[moving, 6] - np.arctan2(o.velocities[moving, 1], o.velocities[moving, 0]))
        for o in (before, after)
    ]
    np.testing.assert_allclose(headings[0], headings[1], atol=1e-4)


def test_pasted_objects_have_points_a_past_and_painting(
    encoded: list[Path], tiny_samples: Path
) -> None:
    sampling = open_object_sampling(encoded, tiny_samples, {"car": 6, "pedestrian": 4}, CLASSES)
    assert sampling is not None and sampling.classes == CLASSES
    painting = PaintingConfig(0, 0, 0, 0, 0, 0, 0)
    plain = frame(encoded, augmentation=STILL, painting=painting)
    pasted = frame(encoded, augmentation=STILL, painting=painting, sampling=sampling)
    before = plain.objects.boxes[None, :, :2]
    nearest = np.linalg.norm(pasted.objects.boxes[:, None, :2] - before, axis=2).min(axis=1)
    boxes = pasted.objects.boxes[nearest > 0.01]
    assert len(boxes) > 1
    assert all(points_in_box(pasted.points, box).sum() >= 8 for box in boxes)
    # The images do not show the objects: their features are masked there.
    assert len(pasted.images.masked_boxes) >= 2 * len(boxes)
    lidar = frame(encoded, augmentation=STILL, sampling=sampling, images=False)
    assert not len(lidar.images.masked_boxes)


def test_points_of_pasted_objects_are_moved_back_by_their_velocity() -> None:
    box = np.array([[10, 5, 1, 4, 2, 2, np.pi / 2]], np.float32)
    points = np.array([[10, 5, 1, 0.5], [10, 6, 0.05, 0.5], [0, 0, 1, 0.5]], np.float32)
    empty = np.zeros((0, 3), np.float32)
    velocity = np.array([[0.0, 10.0]], np.float32)
    (near, far) = add_past_points(
        [PastSweep(empty, 0.1), PastSweep(empty, 0.3)], points, box, velocity
    )
    # The point near the ground is left out, as in all past sweeps.
    np.testing.assert_allclose(near.points, [[10, 4, 1]], atol=1e-6)
    np.testing.assert_allclose(far.points, [[10, 2, 1]], atol=1e-6)
    rng = np.random.default_rng(0)
    drawn = draw_velocities(np.repeat(box, 300, 0), ["car"] * 150 + ["cone"] * 150, rng)
    speeds = np.linalg.norm(drawn, axis=1)
    assert not speeds[150:].any() and 0.35 < (speeds[:150] > 0).mean() < 0.65
    np.testing.assert_allclose(drawn[:, 0], 0.0, atol=1e-5)


def test_beams_are_dropped_only_where_enough_of_them_remain() -> None:
    """The beams of a LiDAR of 16 beams, 2 degrees apart, may all lie between those that are kept."""
    azimuth = np.linspace(0, 6.28, 200)
    fractions = {}
    for step in (0.25, 2.0):
        slope = np.tan(np.radians(np.arange(-15, 15.1, step)))
        a, s = (v.ravel() for v in np.meshgrid(azimuth, slope))
        points = np.column_stack([10 * np.cos(a), 10 * np.sin(a), 2 + 10 * s, a]).astype(np.float32)
        kept = []
        for seed in range(20):
            empty = np.zeros((0, 7), np.float32)
            scene = FrameScene(
                {"lidar": np.array([0, 0, 2.0])}, points, [PastSweep(points[:, :3], 0.1)],
                empty, np.zeros(0, np.int64), empty[:, :2], np.zeros(0, np.int64), None,
            )  # fmt: skip
            augment_points(
                scene,
                AugmentationConfig(0, 0, 0, 0, 0, 0, beam_dropout=1.0),
                np.random.default_rng(seed),
            )
            assert len(scene.past[0].points) == len(scene.points)
            kept.append(len(scene.points) / len(points))
        fractions[step] = kept
    assert max(fractions[0.25]) < 0.6 and min(fractions[0.25]) > 0.1
    assert min(fractions[2.0]) > 0.1


def test_an_odometry_error_moves_older_sweeps_more() -> None:
    points = np.zeros((1, 3), np.float32)
    shifts = [
        np.std([perturb_alignment(points, k, np.random.default_rng(s))[0, 0] for s in range(300)])
        for k in (1, 5)
    ]
    assert 0.007 < shifts[0] < 0.013 and shifts[1] == pytest.approx(5 * shifts[0], rel=1e-3)


def test_every_subset_of_the_sensors_occurs() -> None:
    rng, config = np.random.default_rng(0), SensorDropoutConfig()
    images = ("camera0", "camera1", "thermal0")
    drawn = [draw_sensors(config, True, images, 5, rng) for _ in range(3000)]
    assert all(d.lidar or d.images for d in drawn)
    without = [d for d in drawn if not d.lidar]
    assert 0.27 < len(without) / 3000 < 0.33 and all(d.past_sweeps == 0 for d in without)
    assert 0.17 < np.mean([not d.images for d in drawn]) < 0.25
    subsets = {d.images for d in drawn}
    assert len(subsets) == 8, "all subsets of three images"
    assert {d.past_sweeps for d in drawn if d.lidar} == {0, 1, 2, 3, 4, 5}
    assert not draw_sensors(config, False, ("camera0",), 0, rng).lidar
    assert all(draw_sensors(config, False, ("camera0",), 0, rng).images for _ in range(200))
    with pytest.raises(ValueError, match="more than 1"):
        SensorDropoutConfig(lidar=0.7, images=0.7)


def test_objects_that_the_sensors_hardly_show_are_ignored() -> None:
    boxes = np.zeros((4, 7), np.float32)
    boxes[:, 0] = [10, 20, 30, 48]
    pixels = np.array([0.0, 10.0, 400.0, 400.0])
    points = np.array([5, 0, 0, 0])
    detected, ignored = observability(boxes, points, pixels)
    assert detected.tolist() == [True, False, True, True]
    assert ignored.tolist() == [False, True, False, False]
    detected, ignored = observability(boxes, None, pixels)
    assert detected.tolist() == [False, False, True, False]
    assert ignored.tolist() == [False, True, False, True]


def test_targets_of_velocities_and_ignored_objects() -> None:
    boxes = np.array([[4, 2, 1, 4, 2, 1.5, 0], [-9, 3, 1, 4, 2, 1.5, 0]], np.float32)
    far = np.array([[100, 0, 1, 4, 2, 1.5, 0]], np.float32)
    velocities = np.array([[9, 9], [3, 4], [0, 0.1]], np.float32)
    objects = FrameObjects(
        np.concatenate([far, boxes]), np.array([0, 0, 7]), velocities, boxes[:1] + 8, np.array([0])
    )
    targets = stage1_targets(objects, TINY, 0.5)
    assert targets["weights"][:3].tolist() == [1, 1, 0]
    assert targets["velocities"][:2].tolist() == [[3, 4], [0, np.float32(0.1)]]
    assert targets["velocity_weights"][:3].tolist() == [1.0, 0.5, 0.0]
    heat = targets["heat"]
    assert heat[0].max() == 1.0 and heat[7].max() == 1.0 and not heat[1].any()
    size, cell = TINY.lift_size, TINY.lift_cell
    row, column = (int((v + 25.6) / cell) for v in (10, 12))
    assert heat.shape == (10, size, size) and heat[0, row, column] == np.float32(UNLABELLED)


def test_stored_outputs_are_close_to_those_of_the_network(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    features = rng.normal(0, 3, (12, 16, 8)).astype(np.float32)
    ranges = rng.dirichlet(np.full(8, 0.3), (6, 8)).astype(np.float32)
    path = tmp_path / "a.npz"
    with open(feature_path(path), "wb") as file:
        np.savez(file, allow_pickle=False, **quantise_outputs("camera0", features, ranges))
    (image,) = read_images(path, {"camera0": None}, {})  # type: ignore[dict-item]
    assert image.modality == "camera"
    assert np.abs(image.features - features).max() < np.abs(features).max() / 200
    assert np.abs(image.ranges - ranges).max() < 0.01
    np.testing.assert_allclose(image.ranges.sum(axis=2), 1.0, atol=1e-5)


def test_features_of_other_networks_are_computed_again(
    encoded: list[Path], trained: dict[str, Path]
) -> None:
    encoders = load_encoders(TINY, list(trained.values()))
    assert store_features(encoded, encoders, TINY, "fp32") == 0
    sample = sample_arrays(encoded[0].parent)
    views = dict(zip(("camera0", "camera1"), image_views(sample, "camera"), strict=True))
    before = read_images(encoded[0], views, {})
    with torch.no_grad():
        next(encoders["camera"].neck.parameters()).mul_(2.0)
    assert store_features(encoded[:1], encoders, TINY, "fp32") == 1
    assert not np.array_equal(read_images(encoded[0], views, {})[0].features, before[0].features)
    feature_path(encoded[0]).write_bytes(b"damaged")
    assert store_features(encoded, load_encoders(TINY, list(trained.values())), TINY, "fp32") == 1


def test_batches_have_the_teachers_frames_apart(encoded: list[Path]) -> None:
    complete = frame(encoded)
    without = frame(encoded, 1, dropout=dataclasses.replace(COMPLETE, lidar=1.0), teacher=True)
    stacked, teacher, frames = collate([complete, without, complete])
    assert teacher["rows"].tolist() == [1] and len(teacher["pillars"]) == 1 and len(frames) == 3
    assert len(stacked["pillars"]) == 3
    assert collate([complete])[1].keys() == {"rows"}
