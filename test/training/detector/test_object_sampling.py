"""Ground-truth sampling in the training of the fusion detector: masked image features."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from multimodal_perception.configuration import ConfigurationError, build
from multimodal_perception.detection.fusion.network_config import CLASSES
from multimodal_perception.geometry.boxes import count_points_in_boxes, points_in_box
from multimodal_perception.training.bev_fusion.augmentation import AugmentationConfig
from multimodal_perception.training.bev_fusion.object_bank import (
    ObjectBank,
)
from multimodal_perception.training.bev_fusion.object_sampling import (
    ObjectSampling,
)
from multimodal_perception.training.bev_fusion.sample_files import (
    POINT_STEP,
    read_sample,
    sample_paths,
    write_sample,
)
from multimodal_perception.training.detector.available_sensors import DropoutConfig
from multimodal_perception.training.detector.dataset import DetectorDataset
from multimodal_perception.training.detector.train import DetectorTraining, train_proposals
from test.networks.detectors import SMALL
from test.training.bev_fusion.test_object_sampling import LIDAR, bank, rays, sample
from test.training.detector.tiny_samples import configured
from test.training.detector.tiny_samples import samples as samples


def bus_bank() -> ObjectBank:
    """The panel as a bus of this detector."""
    labels = np.array([CLASSES.index("bus")])
    return dataclasses.replace(bank(distance=8.0, height=1.6), labels=labels)


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
    with_bus = data_of(paths, ObjectSampling(bus_bank(), {"bus": 1}, CLASSES))
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
