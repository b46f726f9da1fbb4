"""Ground-truth sampling: free positions, occlusion, masked image features, the bank of objects."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from multimodal_perception.configuration import ConfigurationError, UserError, build
from multimodal_perception.detection.fusion.network_config import CLASSES
from multimodal_perception.frame import CLASS_NAMES
from multimodal_perception.geometry.boxes import count_points_in_boxes, iou_bev, points_in_box
from multimodal_perception.training.detector.augmentation import AugmentationConfig, DropoutConfig
from multimodal_perception.training.detector.dataset import DetectorDataset
from multimodal_perception.training.detector.object_bank import ObjectBank, build_bank
from multimodal_perception.training.detector.object_sampling import (
    ObjectSampling,
    open_object_sampling,
)
from multimodal_perception.training.detector.samples import (
    POINT_STEP,
    Arrays,
    read_sample,
    sample_paths,
    sample_points,
    write_sample,
)
from multimodal_perception.training.detector.train import DetectorTraining, train_proposals
from test.networks.detectors import SMALL
from test.training.detector.tiny_samples import configured
from test.training.detector.tiny_samples import samples as samples

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
    return ObjectBank(points.astype(np.float32), starts, np.array([box], np.float32), labels)


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


def flat_samples(folder: Path, source: Path) -> Path:
    """The samples with points on flat ground, inside the grid of the small network."""
    ground = rays(wall=12.0)
    for path in sample_paths(source):
        arrays = read_sample(path)
        own = arrays["points"][:300].astype(np.float32) * np.float32(POINT_STEP)
        points = np.concatenate([own - LIDAR, ground])
        arrays |= {k: v for k, v in sample(points).items() if k in ("points", "intensity", "lidar")}
        write_sample(folder / path.name, arrays)
    return folder


def data_of(paths: list[Path], sampling: ObjectSampling | None) -> DetectorDataset:
    return DetectorDataset(
        paths,
        SMALL,
        AugmentationConfig(),
        DropoutConfig(0.0, 0.0, 0.0, 0.0, 0.0),
        5,
        stored_features=False,
        sampling=sampling,
    )


def test_frames_contain_pasted_objects_and_their_image_features_are_masked(
    samples: Path, tmp_path: Path
) -> None:
    paths = sample_paths(flat_samples(tmp_path, samples))
    with_bus = data_of(paths, ObjectSampling(bank(distance=8.0, height=1.6), {"bus": 1}))
    plain = data_of(paths, None)
    pasted = 0
    for k in range(len(paths)):
        frame, again, before = with_bus[k], with_bus[k], plain[k]
        for name, values in frame.arrays.items():
            np.testing.assert_array_equal(values, again.arrays[name])
        buses = frame.boxes[frame.labels == CLASSES.index("bus")]
        pasted += len(buses)
        assert len(frame.boxes) >= len(before.boxes)
        for box in buses:
            assert count_points_in_boxes(frame.points, box[None], 0.05)[0] >= 8
        assert frame.views.masked_boxes is not None
        points = np.random.default_rng(k).uniform((2, -4, 0), (12, 4, 2), (4000, 3))
        masked, unmasked = frame.views.project(points), before.views.project(points)
        within = np.zeros(len(points), np.bool_)
        for box in frame.views.masked_boxes:
            within |= points_in_box(points, box)
        assert (
            not masked["camera_valid"][within].any() and not masked["thermal_valid"][within].any()
        )
        for name in masked:
            np.testing.assert_array_equal(masked[name][~within], unmasked[name][~within])
    assert pasted >= 3


def test_nothing_is_pasted_without_classes(samples: Path, tmp_path: Path) -> None:
    paths = sample_paths(samples)
    assert open_object_sampling(paths, samples, {}) is None
    assert open_object_sampling(paths, samples, {"bus": 0}) is None
    assert not (samples / "objects.bank").exists()
    assert DetectorTraining().gt_sampling == {}


def test_the_bank_is_stored_and_built_again_for_other_samples(
    samples: Path, tmp_path: Path
) -> None:
    folder = flat_samples(tmp_path, samples)
    paths = sample_paths(folder)
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


def test_errors_name_a_folder_without_write_access(samples: Path, tmp_path: Path) -> None:
    paths = sample_paths(flat_samples(tmp_path, samples))
    with pytest.raises(UserError, match=r"no/objects\.bank"):
        open_object_sampling(paths, tmp_path / "no", {"car": 1})


def test_training_with_pasted_objects(samples: Path, tmp_path: Path) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    flat_samples(folder, samples)
    config = dataclasses.replace(configured("proposals", 2), gt_sampling={"car": 3})
    network = train_proposals(config, folder, tmp_path / "out")
    assert all(bool(p.isfinite().all()) for p in network.parameters())


@pytest.mark.parametrize(
    ("gt_sampling", "message"),
    [
        ({"tram": 1}, "gt_sampling: allowed: car, van"),
        ({"bus": -1}, "gt_sampling.bus: allowed: 0 to 50"),
        ({"bus": 1.5}, "gt_sampling.bus: expected int"),
        ([1], "gt_sampling: expected a mapping"),
    ],
)
def test_errors_name_the_wrong_setting(gt_sampling: object, message: str) -> None:
    with pytest.raises(ConfigurationError, match=message.replace(".", r"\.")):
        build(DetectorTraining, {"gt_sampling": gt_sampling}, "t.yaml")
