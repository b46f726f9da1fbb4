from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from multimodal_perception.datasets.dataset import Dataset
from multimodal_perception.datasets.synthetic import SyntheticDataset
from multimodal_perception.evaluation.error_analysis import confusion, frame_errors
from multimodal_perception.evaluation.nuscenes_metrics import NuScenesProtocol, ScoredFrame
from multimodal_perception.evaluation.recorded_drives import (
    DriveSettings,
    combine,
    evaluate_drive,
    worst_frames,
)
from multimodal_perception.frame import CLASS_NAMES, Boxes3D, SensorFrame
from multimodal_perception.perception import Perception

PROTOCOL = NuScenesProtocol.for_classes(("car", "pedestrian"))


def boxes(rows: list[tuple[str, float, float, float]], ids: bool = False) -> Boxes3D:
    """Boxes of class, x, y and score."""
    n = len(rows)
    return Boxes3D(
        0,
        "base_link",
        np.array([[x, y, 0.8, 4, 2, 1.6, 0] for _, x, y, _ in rows], np.float32).reshape(-1, 7),
        np.array([s for *_, s in rows], np.float32),
        np.array([CLASS_NAMES.index(c) for c, *_ in rows], np.int64),
        track_ids=np.arange(n) if ids else None,
        num_points=np.full(n, 50),
    )


class LabelledDrive(Dataset):
    """Frames of the synthetic street with given labels."""

    def __init__(self, name: str, labels: list[Boxes3D]) -> None:
        street = SyntheticDataset()
        self.name, self.rig = name, street.rig
        self._frames = [replace(street[k], labels=b) for k, b in enumerate(labels)]

    def __len__(self) -> int:
        return len(self._frames)

    def __getitem__(self, index: int) -> SensorFrame:
        return self._frames[index]


def fixed(results: list[Boxes3D]) -> Any:
    """A pipeline that returns given boxes; the first call is that of the compilation."""
    calls = iter([results[0], *results])

    def process(frame: SensorFrame) -> Perception:
        found = next(calls)
        return Perception(
            frame.stamp_ns,
            frame.base_frame,
            found,
            stage_ms={"detect": 2.0, "total": 3.0},
        )

    return process


LABELS = boxes([("car", 10, 0, 1), ("pedestrian", 5, 4, 1), ("car", -20, 3, 1)], ids=True)
FOUND = boxes(
    [("car", 10.2, 0, 0.9), ("car", 5, 4.1, 0.8), ("car", -15, -9, 0.7), ("car", 30, 9, 0.1)],
    ids=True,
)


def drive(name: str, count: int = 2, pictures: int = 0) -> Any:
    dataset = LabelledDrive(name, [LABELS] * count)
    settings = DriveSettings(PROTOCOL, pictures=pictures)
    return evaluate_drive(dataset, fixed([FOUND] * count), "fake", settings)


def test_false_boxes_count_all_around_the_vehicle() -> None:
    result = combine([drive("a", 1)], PROTOCOL)
    # Two of four boxes are on a label; the one behind the vehicle is outside of all images.
    assert result["labels_in_view"] is False
    assert result["counts"] == {
        "labels": 3,
        "matched_labels": 2,
        "boxes": 4,
        "matched_boxes": 2,
    }
    assert result["false_positives_per_frame"] == 2.0
    kitti = LabelledDrive("k", [LABELS])
    kitti.rig = replace(kitti.rig, name="kitti")
    in_view = evaluate_drive(kitti, fixed([FOUND]), "fake", DriveSettings(PROTOCOL))
    limited = combine([in_view], PROTOCOL)
    assert limited["labels_in_view"] is True and limited["counts"]["boxes"] < 4


def test_the_figures_of_two_drives_are_those_of_all_their_frames() -> None:
    parts = combine([drive("a", 2), drive("b", 3)], PROTOCOL)
    whole = combine([drive("a", 5)], PROTOCOL)
    assert parts["frames"] == whole["frames"] == 5
    assert [d["name"] for d in parts["drives"]] == ["a", "b"]
    np.testing.assert_equal(parts["nuscenes"], whole["nuscenes"])
    np.testing.assert_equal(parts["counts"], whole["counts"])
    np.testing.assert_equal(parts["near_objects"], whole["near_objects"])
    tracking = parts["tracking"]
    assert tracking["mota"] == whole["tracking"]["mota"]
    # The same ids in two drives are different objects.
    assert tracking["objects"] == 2 * whole["tracking"]["objects"]
    assert parts["frame_ms"] == [3.0] * 5 and parts["latency_ms"]["p50"] == 3.0


def test_confusion_and_curves_in_closed_form() -> None:
    result = combine([drive("a", 1)], PROTOCOL)["nuscenes"]
    matrix = result["confusion"]
    assert matrix["rows"] == ["car", "pedestrian", "no label"]
    assert matrix["columns"] == ["car", "pedestrian", "missed"]
    # Cars: one found, one missed. The pedestrian is called a car. One false car (0.1 is too low).
    assert matrix["counts"] == [[1, 0, 1], [1, 0, 0], [1, 0, 0]]
    # Of the class car: boxes 0.9 (true), 0.8, 0.7, 0.1 (false) for two labels.
    assert result["curves"]["car"][:26] == [1.0] * 26 and result["curves"]["car"][26] == 0.0
    assert result["curves"]["pedestrian"] == [0.0] * 51


def test_errors_of_a_frame() -> None:
    errors = frame_errors(ScoredFrame(FOUND, LABELS), PROTOCOL)
    assert errors.label_of_box.tolist() == [0, 1, -1, -2]
    assert errors.missed.tolist() == [False, False, True]
    assert errors.count == 3  # one missed, one false, one of the wrong class
    empty = frame_errors(ScoredFrame(boxes([]), boxes([])), PROTOCOL)
    assert empty.count == 0
    assert confusion([], PROTOCOL)["counts"] == [[0] * 3] * 3


def test_the_worst_frames_are_pictures_in_order() -> None:
    labels = [LABELS, boxes([("car", 10, 0, 1)], ids=True), LABELS]
    dataset = LabelledDrive("a", labels)
    found = [LABELS, FOUND, FOUND]
    result = evaluate_drive(dataset, fixed(found), "fake", DriveSettings(PROTOCOL, pictures=2))
    frames = worst_frames([result, drive("b", 1, pictures=2)], 3)
    assert [f.errors for f in frames] == [3, 3, 2]
    assert [f.caption.partition(":")[0] for f in frames] == [
        "a, frame 2",
        "b, frame 0",
        "a, frame 1",
    ]
    assert "1 missed, 1 false, 1 of the wrong class" in frames[0].caption
    assert all(f.picture.startswith(b"\xff\xd8") for f in frames)
    assert [f.picture for f in worst_frames([result], 2)] == [
        f.picture
        for f in worst_frames(
            [evaluate_drive(dataset, fixed(found), "fake", DriveSettings(PROTOCOL, pictures=2))],
            2,
        )
    ]


def test_drives_without_frames_and_other_metrics_are_errors() -> None:
    from multimodal_perception.configuration import UserError

    with pytest.raises(UserError, match="no frames"):
        evaluate_drive(LabelledDrive("a", []), fixed([FOUND]), "x", DriveSettings(PROTOCOL))
    with pytest.raises(UserError, match="KITTI"):
        settings = DriveSettings(PROTOCOL, kitti=True)
        evaluate_drive(LabelledDrive("a", [LABELS]), fixed([FOUND]), "x", settings)
