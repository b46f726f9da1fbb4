"""Objects pasted into frames: on free ground, before what they hide, unseen by images."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from multimodal_perception.configuration import ConfigurationError, UserError, build
from multimodal_perception.detection.fusion.network_config import CLASSES
from multimodal_perception.frame import CLASS_NAMES
from multimodal_perception.geometry.boxes import inside, iou_bev, points_in_boxes
from multimodal_perception.training.detector.augmentation import AugmentationConfig, DropoutConfig
from multimodal_perception.training.detector.dataset import DetectorData
from multimodal_perception.training.detector.object_sampling import (
    GroundTruthSampling,
    ObjectBank,
    build_bank,
    sampling_of,
)
from multimodal_perception.training.detector.samples import (
    POINT_STEP,
    Arrays,
    points_of,
    read_sample,
    sample_paths,
    write_sample,
)
from multimodal_perception.training.detector.train import DetectorTraining, train_proposals
from test.networks.detectors import SMALL
from test.training.detector.test_train import configured
from test.training.detector.test_train import samples as samples

LIDAR = np.array([0.2, -0.1, 2.0], np.float32)


def rays(wall: float = 60.0, columns: int = 1440) -> NDArray[np.float32]:
    """What a LiDAR sees on flat ground within a round wall: points (N, 3) from where it stands."""
    azimuth = (np.arange(columns) + 0.5) / columns * 2 * np.pi
    slope = np.tan(np.radians(np.arange(-24, 3, 0.5)))
    a, s = (v.ravel() for v in np.meshgrid(azimuth, slope))
    reach = np.minimum(np.where(s < 0, -LIDAR[2] / np.minimum(s, -1e-9), np.inf), wall)
    return np.column_stack([reach * np.cos(a), reach * np.sin(a), s * reach]).astype(np.float32)


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


def bank(away: float = 15.0, height: float = 2.0) -> ObjectBank:
    """A flat panel that faces the LiDAR, 2 m wide, of the class bus; the ground lies 2 m lower."""
    y, z = (v.ravel() for v in np.meshgrid(np.arange(-1, 1, 0.06), np.arange(0.1, height, 0.12)))
    points = np.column_stack([np.full(len(y), away), y, z - LIDAR[2], np.full(len(y), 0.5)])
    box = [away + 0.4, 0, height / 2 - LIDAR[2], 1.0, 2.1, height, 0.0]
    labels = np.array([CLASSES.index("bus")])
    starts = np.array([0, len(y)])
    return ObjectBank(points.astype(np.float32), starts, np.array([box], np.float32), labels)


SAMPLING = GroundTruthSampling(bank(), {"bus": 1})


def level(points: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.hypot(points[:, 0] - LIDAR[0], points[:, 1] - LIDAR[1])


@pytest.mark.parametrize("seed", range(5))
def test_what_lies_behind_an_object_is_hidden_and_nothing_else(seed: int) -> None:
    frame = sample(rays())
    pasted = SAMPLING.paste(frame, np.random.default_rng(seed))
    assert pasted.labels.tolist() == [CLASSES.index("bus")] and pasted.boxes.shape == (1, 7)
    box = pasted.boxes[0]
    # It keeps its distance and stands on the ground, which is at 0.
    np.testing.assert_allclose(np.hypot(box[0] - LIDAR[0], box[1] - LIDAR[1]), 15.4, rtol=1e-5)
    assert abs(box[2] - box[5] / 2) < 0.01
    own = pasted.points[pasted.points[:, 3] == np.float32(0.5)]
    assert len(own) == len(SAMPLING.bank.points)
    assert points_in_boxes(own, pasted.boxes, 0.01)[0] == len(own)
    # In base_link, a ray is hidden where it goes through the panel: checked here from the outline.
    before = np.rint((rays() + LIDAR) / POINT_STEP) * POINT_STEP
    angle = np.arctan2(before[:, 1] - LIDAR[1], before[:, 0] - LIDAR[0])
    turn = np.arctan2(box[1] - LIDAR[1], box[0] - LIDAR[0])
    aside = np.abs(np.arctan2(np.sin(angle - turn), np.cos(angle - turn)))
    slope = (before[:, 2] - LIDAR[2]) / level(before)
    far = level(before) > 15.1
    within = (slope > -1.9 / 15.03) & (slope < 0.0)
    surely = far & within & (aside < np.arctan(0.9 / 15))
    maybe = far & (aside < np.arctan(1.2 / 15)) & (slope > -2.2 / 15) & (slope < 0.02)
    kept = {tuple(p) for p in np.rint(pasted.points[:, :3] / POINT_STEP).astype(int)}
    there = np.array([tuple(p) in kept for p in np.rint(before / POINT_STEP).astype(int)])
    assert surely.sum() > 50
    assert not there[surely].any()
    own_place = points_in_boxes(before.astype(np.float32), pasted.boxes)
    assert there[~maybe].sum() >= (~maybe).sum() - own_place[0]


def test_no_place_is_taken_twice() -> None:
    cars = np.array(
        [[15 * np.cos(a), 15 * np.sin(a), 0.8, 4, 2, 1.6, a] for a in np.arange(0, 5, 0.6)],
        np.float32,
    )
    many = GroundTruthSampling(
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
    assert len(pasted.hidden) == 2 * len(pasted.boxes)


def test_labels_lose_what_is_hidden_of_them() -> None:
    """A car behind every direction: where something is pasted, points of it are lost."""
    ring = np.array(
        [[30 * np.cos(a), 30 * np.sin(a), 1, 4, 4, 2, a] for a in np.arange(0, 6.28, 0.13)],
        np.float32,
    )
    frame = sample(rays(wall=29.0), ring)
    before = points_in_boxes(points_of(frame), ring, 0.1)
    pasted = SAMPLING.paste(frame, np.random.default_rng(1))
    after = points_in_boxes(pasted.points, ring, 0.1)
    assert len(pasted.boxes) == 1 and pasted.lost.sum() > 10
    np.testing.assert_array_equal(before - pasted.lost, after)


@pytest.mark.parametrize("where", ["behind a wall", "no ground", "something stands", "heard"])
def test_there_is_no_place(where: str) -> None:
    frame = sample(rays(wall=10.0 if where == "behind a wall" else 60.0))
    points = rays()
    if where == "no ground":
        frame = sample(points[np.hypot(points[:, 0], points[:, 1]) > 40])
    elif where == "something stands":
        angle = np.linspace(0, 2 * np.pi, 2000)
        posts = [15.4 * np.cos(angle), 15.4 * np.sin(angle), np.full(2000, -1.0)]
        frame = sample(np.concatenate([points, np.column_stack(posts).astype(np.float32)]))
    elif where == "heard":
        frame["ultrasonic"] = np.array([[0, 0, 0.5, 0, 20.0, 0.1, 20.0, 1.0]], np.float32)
    pasted = SAMPLING.paste(frame, np.random.default_rng(0))
    assert not len(pasted.boxes) and not len(pasted.hidden)
    assert len(pasted.points) == len(frame["points"])


def test_a_frame_without_points_takes_nothing() -> None:
    pasted = SAMPLING.paste(sample(np.zeros((0, 3), np.float32)), np.random.default_rng(0))
    assert not len(pasted.points) and not len(pasted.boxes)


def flat_samples(folder: Path, source: Path) -> Path:
    """The samples of test_detector on ground that a LiDAR sees, within the small network's grid."""
    ground = rays(wall=12.0)
    for path in sample_paths(source):
        arrays = read_sample(path)
        own = arrays["points"][:300].astype(np.float32) * np.float32(POINT_STEP)
        points = np.concatenate([own - LIDAR, ground])
        arrays |= {k: v for k, v in sample(points).items() if k in ("points", "intensity", "lidar")}
        write_sample(folder / path.name, arrays)
    return folder


def data_of(paths: list[Path], sampling: GroundTruthSampling | None) -> DetectorData:
    return DetectorData(
        paths,
        SMALL,
        AugmentationConfig(),
        DropoutConfig(0.0, 0.0, 0.0, 0.0, 0.0),
        5,
        stored=False,
        sampling=sampling,
    )


def test_items_hold_what_was_pasted_and_no_image_sees_it(samples: Path, tmp_path: Path) -> None:
    paths = sample_paths(flat_samples(tmp_path, samples))
    with_bus = data_of(paths, GroundTruthSampling(bank(away=8.0, height=1.6), {"bus": 1}))
    plain = data_of(paths, None)
    pasted = 0
    for k in range(len(paths)):
        item, again, before = with_bus[k], with_bus[k], plain[k]
        for name, values in item.arrays.items():
            np.testing.assert_array_equal(values, again.arrays[name])
        buses = item.boxes[item.labels == CLASSES.index("bus")]
        pasted += len(buses)
        assert len(item.boxes) >= len(before.boxes)
        for box in buses:
            assert points_in_boxes(item.points, box[None], 0.05)[0] >= 8
        assert item.views.hidden is not None
        places = np.random.default_rng(k).uniform((2, -4, 0), (12, 4, 2), (4000, 3))
        seen, bare = item.views.look_up(places), before.views.look_up(places)
        within = np.zeros(len(places), np.bool_)
        for box in item.views.hidden:
            within |= inside(places, box)
        assert not seen["camera_seen"][within].any() and not seen["thermal_seen"][within].any()
        for name in seen:
            np.testing.assert_array_equal(seen[name][~within], bare[name][~within])
    assert pasted >= 3


def test_without_classes_items_are_what_they_were(samples: Path, tmp_path: Path) -> None:
    paths = sample_paths(samples)
    assert sampling_of(paths, samples, {}) is None
    assert sampling_of(paths, samples, {"bus": 0}) is None
    assert not (samples / "objects.bank").exists()
    assert DetectorTraining().sampled == {}


def test_the_bank_is_kept_and_made_anew_when_it_does_not_fit(samples: Path, tmp_path: Path) -> None:
    folder = flat_samples(tmp_path, samples)
    paths = sample_paths(folder)
    made = sampling_of(paths, folder, {"car": 2})
    assert made is not None and len(made.bank) == len(paths)
    for k in range(len(made.bank)):
        own = made.bank.points[made.bank.starts[k] : made.bank.starts[k + 1]]
        assert points_in_boxes(own, made.bank.boxes[k][None], 0.01)[0] == len(own) > 100
    kept = (folder / "objects.bank").stat().st_mtime_ns
    again = sampling_of(paths, folder, {"car": 5})
    assert again is not None and (folder / "objects.bank").stat().st_mtime_ns == kept
    np.testing.assert_array_equal(again.bank.points, made.bank.points)
    fewer = sampling_of(paths[:3], folder, {"car": 1})
    assert fewer is not None and len(fewer.bank) == 3
    (folder / "objects.bank").write_bytes(b"PK\x03\x04 torn")
    whole = sampling_of(paths, folder, {"car": 1})
    assert whole is not None and len(whole.bank) == len(paths)
    assert sample_paths(folder) == paths  # the bank is no sample
    with pytest.raises(UserError, match=r"sampled: no labelled object of class bus"):
        sampling_of(paths, folder, {"bus": 1, "car": 1})
    assert len(build_bank(paths, ["bus"])) == 0


def test_a_folder_that_takes_no_bank_is_named(samples: Path, tmp_path: Path) -> None:
    paths = sample_paths(flat_samples(tmp_path, samples))
    with pytest.raises(UserError, match=r"no/objects\.bank"):
        sampling_of(paths, tmp_path / "no", {"car": 1})


def test_training_with_sampling(samples: Path, tmp_path: Path) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    flat_samples(folder, samples)
    config = dataclasses.replace(configured("proposals", 2), sampled={"car": 3})
    network = train_proposals(config, folder, tmp_path / "out")
    assert all(bool(p.isfinite().all()) for p in network.parameters())


@pytest.mark.parametrize(
    ("sampled", "said"),
    [
        ({"tram": 1}, "sampled: allowed: car, van"),
        ({"bus": -1}, "sampled.bus: allowed: 0 to 50"),
        ({"bus": 1.5}, "sampled.bus: expected int"),
        ([1], "sampled: expected a mapping"),
    ],
)
def test_bad_settings_name_the_key(sampled: object, said: str) -> None:
    with pytest.raises(ConfigurationError, match=said.replace(".", r"\.")):
        build(DetectorTraining, {"sampled": sampled}, "t.yaml")
