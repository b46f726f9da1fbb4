"""Repetition of samples with rare classes."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np

from multimodal_perception.frame import CLASS_NAMES
from multimodal_perception.training.bev_fusion.class_balance import repeat_rare_classes
from multimodal_perception.training.bev_fusion.frame_scene import DETECTOR_LABELS
from multimodal_perception.training.bev_fusion.sample_files import write_sample


def test_frames_with_rare_classes_are_repeated(tmp_path: Path) -> None:
    paths = [tmp_path / f"{name}.npz" for name in ("car", "bus", "hidden")]
    for path, name, points in zip(paths, ("car", "bus", "bus"), (9, 9, 0), strict=True):
        labels = np.array([CLASS_NAMES.index(name)], np.uint8)
        write_sample(path, {"labels": labels, "num_points": np.array([points], np.int32)})
    # One frame of 16 has a visible bus; with a threshold of 1/4 it is repeated sqrt(16 / 4) times.
    many = [*[paths[0]] * 14, paths[2], paths[1]]
    repeated = repeat_rare_classes(many, 0.25, 0, DETECTOR_LABELS)
    assert Counter(repeated) == {paths[0]: 14, paths[1]: 2, paths[2]: 1}
    assert repeated == repeat_rare_classes(many, 0.25, 0, DETECTOR_LABELS)
    assert len(repeat_rare_classes(many, 0.001, 0, DETECTOR_LABELS)) == len(many)
