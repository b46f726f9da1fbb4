"""Ground-truth sampling: free positions, occlusion, masked image features, the bank of objects."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from multimodal_perception.configuration import UserError
from multimodal_perception.detection.bev_fusion.network_config import CLASSES
from multimodal_perception.frame import CLASS_NAMES
from multimodal_perception.geometry.boxes import count_points_in_boxes, iou_bev
from multimodal_perception.training.bev_fusion.object_bank import (
    ObjectBank,
    build_bank,
)
from multimodal_perception.training.bev_fusion.object_sampling import (
    ObjectSampling,
    open_object_sampling,
)
from multimodal_perception.training.bev_fusion.pasting_scene import point_density
from multimodal_perception.training.bev_fusion.sample_files import (
    POINT_STEP,
    Arrays,
    sample_paths,
    sample_points,
    write_sample,
)

LIDAR = np.array([0.2, -0.1, 2.0], np.float32)


def rays(wall: float = 60.0, columns: int = 1440) -> NDArray[np.float32]:
    """Points (N, 3) relative to a LiDAR on flat ground inside a cylindrical wall."""
    azimuth = (np.arange(columns) + 0.5) / columns * 2 * np.pi
    slope = np.tan(np.radians(np.arange(-24, 3, 0.5)))
    a, s = (v.ravel() for v in np.meshgrid(azimuth, slope))
    distance = np.minimum(np.where(s < 0, -LIDAR[2] / np.minimum(s, -1e-9), np.inf), wall)
    return np.column_stack([distance * np.cos(a), distance * np.sin(a), s * distance]).astype(
        np.float32
    )


def sample(points: NDArray[np.float32], boxes: NDArray[np.float32] | None = None) -> Arrays:
    """A sample of points (N, 3) from the LiDAR and boxes, cars, in base_link."""
    boxes = np.zeros((0, 7), np.float32) if boxes is None else boxes
    return {
        "points": np.rint((points + LIDAR) / POINT_STEP).astype(np.int16),
        "intensity": np.full(len(points), 100, np.uint8),
        "boxes": boxes,
        "labels": np.full(len(boxes), CLASS_NAMES.index("car"), np.uint8),
        "num_points": np.full(len(boxes), 10, np.int32),
        "ultrasonic": np.zeros((0, 8), np.float32),
        "lidar": LIDAR,
    }


def bank(distance: float = 15.0, height: float = 2.0) -> ObjectBank:
    """A flat panel that faces the LiDAR, 2 m wide, of the class bus; the ground lies 2 m lower."""
    y, z = (v.ravel() for v in np.meshgrid(np.arange(-1, 1, 0.06), np.arange(0.1, height, 0.12)))
    points = np.column_stack([np.full(len(y), distance), y, z - LIDAR[2], np.full(len(y), 0.5)])
    box = [distance + 0.4, 0, height / 2 - LIDAR[2], 1.0, 2.1, height, 0.0]
    labels = np.array([CLASSES.index("bus")])
    starts = np.array([0, len(y)])
    density = np.array([point_density(rays() + LIDAR, LIDAR)], np.float32)
    return ObjectBank(
        points.astype(np.float32), starts, np.array([box], np.float32), labels, density
    )


SAMPLING = ObjectSampling(bank(), {"bus": 1})


def horizontal_distance(points: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.hypot(points[:, 0] - LIDAR[0], points[:, 1] - LIDAR[1])


@pytest.mark.parametrize("seed", range(5))
def test_only_points_behind_a_pasted_object_are_removed(seed: int) -> None:
    frame = sample(rays())
    pasted = SAMPLING.paste(frame, np.random.default_rng(seed))
    assert pasted.labels.tolist() == [CLASSES.index("bus")] and pasted.boxes.shape == (1, 7)
    box = pasted.boxes[0]
    # The object keeps its distance and stands on the ground at height 0.
    np.testing.assert_allclose(np.hypot(box[0] - LIDAR[0], box[1] - LIDAR[1]), 15.4, rtol=1e-5)
    assert abs(box[2] - box[5] / 2) < 0.01
    own = pasted.points[pasted.points[:, 3] == np.float32(0.5)]
    assert len(own) == len(SAMPLING.bank.points)
    assert count_points_in_boxes(own, pasted.boxes, 0.01)[0] == len(own)
    # A ray is occluded where it passes through the outline of the panel.
    before = np.rint((rays() + LIDAR) / POINT_STEP) * POINT_STEP
    angle = np.arctan2(before[:, 1] - LIDAR[1], before[:, 0] - LIDAR[0])
    azimuth = np.arctan2(box[1] - LIDAR[1], box[0] - LIDAR[0])
    offset = np.abs(np.arctan2(np.sin(angle - azimuth), np.cos(angle - azimuth)))
    slope = (before[:, 2] - LIDAR[2]) / horizontal_distance(before)
    far = horizontal_distance(before) > 15.1
    within = (slope > -1.9 / 15.03) & (slope < 0.0)
    certain = far & within & (offset < np.arctan(0.9 / 15))
    possible = far & (offset < np.arctan(1.2 / 15)) & (slope > -2.2 / 15) & (slope < 0.02)
    kept = {tuple(p) for p in np.rint(pasted.points[:, :3] / POINT_STEP).astype(int)}
    remaining = np.array([tuple(p) in kept for p in np.rint(before / POINT_STEP).astype(int)])
    assert certain.sum() > 50
    assert not remaining[certain].any()
    inside = count_points_in_boxes(before.astype(np.float32), pasted.boxes)
    assert remaining[~possible].sum() >= (~possible).sum() - inside[0]


def test_objects_of_much_denser_or_sparser_lidars_are_not_pasted() -> None:
    frame = sample(rays())
    for factor, count in ((3.0, 0), (1.4, 1), (1 / 1.4, 1), (1 / 3, 0)):
        other = dataclasses.replace(bank(), densities=bank().densities * np.float32(factor))
        pasted = ObjectSampling(other, {"bus": 1}).paste(frame, np.random.default_rng(0))
        assert len(pasted.boxes) == count, factor
    # 1440 columns in 720 bins, 54 rings; the density is that of the directions with points.
    assert point_density(rays() + LIDAR, LIDAR) == pytest.approx(108, rel=0.01)
    front = rays()[rays()[:, 0] > 0]
    assert point_density(front + LIDAR, LIDAR) == pytest.approx(108, rel=0.02)


def test_pasted_objects_do_not_overlap() -> None:
    cars = np.array(
        [[15 * np.cos(a), 15 * np.sin(a), 0.8, 4, 2, 1.6, a] for a in np.arange(0, 5, 0.6)],
        np.float32,
    )
    many = ObjectSampling(
        dataclasses.replace(
            bank(),
            points=np.tile(bank().points, (30, 1)),
            starts=np.arange(31) * len(bank().points),
            boxes=np.tile(bank().boxes, (30, 1)),
            labels=np.tile(bank().labels, 30),
            densities=np.tile(bank().densities, 30),
        ),
        {"bus": 15},
    )
    pasted = many.paste(sample(rays(), cars), np.random.default_rng(0))
    assert 2 <= len(pasted.boxes) <= 15
    assert iou_bev(pasted.boxes, cars).max() == 0
    overlap = iou_bev(pasted.boxes, pasted.boxes)
    assert (overlap - np.diag(np.diag(overlap))).max() == 0
    assert len(pasted.masked_boxes) == 2 * len(pasted.boxes)


def test_occluded_points_of_labelled_boxes_are_counted() -> None:
    """With cars in all directions, a pasted object occludes points of some of them."""
    ring = np.array(
        [[30 * np.cos(a), 30 * np.sin(a), 1, 4, 4, 2, a] for a in np.arange(0, 6.28, 0.13)],
        np.float32,
    )
    frame = sample(rays(wall=29.0), ring)
    before = count_points_in_boxes(sample_points(frame), ring, 0.1)
    pasted = SAMPLING.paste(frame, np.random.default_rng(1))
    after = count_points_in_boxes(pasted.points, ring, 0.1)
    assert len(pasted.boxes) == 1 and pasted.occluded_points.sum() > 10
    np.testing.assert_array_equal(before - pasted.occluded_points, after)


@pytest.mark.parametrize("reason", ["behind a wall", "no ground", "obstacle", "ultrasonic range"])
def test_nothing_is_pasted_without_a_free_position(reason: str) -> None:
    frame = sample(rays(wall=10.0 if reason == "behind a wall" else 60.0))
    points = rays()
    if reason == "no ground":
        frame = sample(points[np.hypot(points[:, 0], points[:, 1]) > 40])
    elif reason == "obstacle":
        angle = np.linspace(0, 2 * np.pi, 2000)
        posts = [15.4 * np.cos(angle), 15.4 * np.sin(angle), np.full(2000, -1.0)]
        frame = sample(np.concatenate([points, np.column_stack(posts).astype(np.float32)]))
    elif reason == "ultrasonic range":
        frame["ultrasonic"] = np.array([[0, 0, 0.5, 0, 20.0, 0.1, 20.0, 1.0]], np.float32)
    pasted = SAMPLING.paste(frame, np.random.default_rng(0))
    assert not len(pasted.boxes) and not len(pasted.masked_boxes)
    assert len(pasted.points) == len(frame["points"])


def test_nothing_is_pasted_into_a_frame_without_points() -> None:
    pasted = SAMPLING.paste(sample(np.zeros((0, 3), np.float32)), np.random.default_rng(0))
    assert not len(pasted.points) and not len(pasted.boxes)


def samples_with_cars(folder: Path, count: int = 4) -> list[Path]:
    """Samples with the points of a car on flat ground."""
    rng = np.random.default_rng(0)
    box = np.array([[8.0, 2.0, 0.8, 4.2, 1.8, 1.6, 0.3]], np.float32)
    for k in range(count):
        car = rng.uniform(-0.45, 0.45, (300, 3)) * (1.6, 1.6, 1.6) + box[0, :3] - LIDAR
        write_sample(folder / f"{k}.npz", sample(np.concatenate([rays(wall=12.0), car]), box))
    return sample_paths(folder)


def test_nothing_is_pasted_without_classes(tmp_path: Path) -> None:
    paths = samples_with_cars(tmp_path, 1)
    assert open_object_sampling(paths, tmp_path, {}) is None
    assert open_object_sampling(paths, tmp_path, {"bus": 0}) is None
    assert not (tmp_path / "objects.bank").exists()


def test_the_bank_is_stored_and_built_again_for_other_samples(tmp_path: Path) -> None:
    folder, paths = tmp_path, samples_with_cars(tmp_path)
    made = open_object_sampling(paths, folder, {"car": 2})
    assert made is not None and len(made.bank) == len(paths)
    for k in range(len(made.bank)):
        own = made.bank.points[made.bank.starts[k] : made.bank.starts[k + 1]]
        assert count_points_in_boxes(own, made.bank.boxes[k][None], 0.01)[0] == len(own) > 100
    written = (folder / "objects.bank").stat().st_mtime_ns
    again = open_object_sampling(paths, folder, {"car": 5})
    assert again is not None and (folder / "objects.bank").stat().st_mtime_ns == written
    np.testing.assert_array_equal(again.bank.points, made.bank.points)
    fewer = open_object_sampling(paths[:3], folder, {"car": 1})
    assert fewer is not None and len(fewer.bank) == 3
    (folder / "objects.bank").write_bytes(b"PK\x03\x04 damaged")
    rebuilt = open_object_sampling(paths, folder, {"car": 1})
    assert rebuilt is not None and len(rebuilt.bank) == len(paths)
    assert sample_paths(folder) == paths  # the bank is not a sample
    with pytest.raises(UserError, match=r"gt_sampling: no labelled object of class bus"):
        open_object_sampling(paths, folder, {"bus": 1, "car": 1})
    assert len(build_bank(paths, ["bus"])) == 0


def test_errors_name_a_folder_without_write_access(tmp_path: Path) -> None:
    paths = samples_with_cars(tmp_path, 1)
    with pytest.raises(UserError, match=r"no/objects\.bank"):
        open_object_sampling(paths, tmp_path / "no", {"car": 1})
