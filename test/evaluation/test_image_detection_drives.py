from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from multimodal_perception.configuration import UserError
from multimodal_perception.evaluation.image_detection_drives import (
    PlacedScore,
    image_truth,
    score_drives,
)
from multimodal_perception.frame import CLASS_NAMES, Boxes3D
from multimodal_perception.rig import Rig, load_rig, rig_path
from multimodal_perception.runtime.card import load_card
from multimodal_perception.simulation.sensors.camera import View
from multimodal_perception.simulation.world.materials import SEMANTIC_NAMES


@contextlib.contextmanager
def silent(total: int) -> Iterator[Any]:
    class Bar:
        def update(self) -> None: ...

    yield Bar()


def boxes(rows: list[tuple[str, float, float, float]], tracks: bool = True) -> Boxes3D:
    """Boxes of class, x, y and score."""
    return Boxes3D(
        0,
        "base_link",
        np.array([[x, y, 0.8, 4, 2, 1.6, 0] for _, x, y, _ in rows], np.float32).reshape(-1, 7),
        np.array([s for *_, s in rows], np.float32),
        np.array([CLASS_NAMES.index(n) for n, *_ in rows], np.int64),
        track_ids=np.arange(1, len(rows) + 1) if tracks else None,
    )


def test_truth_is_the_visible_pixels_of_each_object() -> None:
    semantics = np.full((60, 80), SEMANTIC_NAMES.index("road"), np.uint8)
    instances = np.zeros((60, 80), np.int32)
    for track, name, (y1, y2, x1, x2) in (
        (9000, "van", (10, 40, 5, 50)),
        (7, "pedestrian", (5, 45, 40, 50)),
        (8, "cyclist", (0, 4, 0, 4)),
    ):
        semantics[y1:y2, x1:x2] = SEMANTIC_NAMES.index(name)
        instances[y1:y2, x1:x2] = track
    view = View(np.zeros((60, 80), np.float32), semantics, instances)
    truth, tracks = image_truth(view, ("vehicle", "person", "cyclist"))
    assert tracks.tolist() == [7, 8, 9000] and truth.labels.tolist() == [1, 2, 0]
    assert truth.boxes[2].tolist() == [5, 10, 40, 40]  # up to the person before it
    assert truth.counts.tolist() == [True, False, True]  # the third is too small


def test_placed_boxes_are_right_once_and_by_class() -> None:
    score = PlacedScore()
    labels = boxes(
        [("van", 10, 0, 1), ("pedestrian", 15, 3, 1), ("car", 25, 0, 1), ("car", 60, 0, 1)]
    )
    placed = boxes(
        [("car", 11, 1, 0.9), ("car", 10, 1, 0.8), ("car", 15, 3, 0.5), ("cyclist", 25, 0, 0.4)],
        tracks=False,
    )
    score.add(labels, np.array([1, 2, 4]), placed)  # the car at 25 m is not in sight
    result = score.summary()
    assert result["all"] == {"labels": 2, "found": 0.5}
    assert result["vehicle"]["found"] == 1.0 and result["person"]["found"] == 0.0
    assert result["10-20 m"]["labels"] == 2 and result["20-30 m"]["labels"] == 0
    assert result["boxes"]["count"] == 4 and result["boxes"]["right"] == 0.25
    assert result["boxes"]["mean_score"] == pytest.approx(0.65)


def test_the_shipped_network_on_a_drive_and_rigs_that_cannot_be_scored() -> None:
    rig = load_rig(rig_path("simulation"))
    result = score_drives(load_card("image_detector"), rig, [10_005], 1, silent)
    assert result["frames"] == 4 and set(result["rows"]) == {"both", "visible", "thermal"}
    day = result["rows"]["both"]["day"]
    assert day["vehicle"]["labels"] > 5 and day["vehicle"]["ap50"] > 0.3
    seen = result["rows"]["thermal"]["day"]["vehicle"]["labels"]
    assert 0 < seen <= day["vehicle"]["labels"]
    assert result["placed"]["day"]["all"]["labels"] > 0
    blind = Rig(**{**vars(rig), "sensors": {"lidar": rig.sensors["lidar"]}})
    with pytest.raises(UserError, match="camera"):
        score_drives(load_card("image_detector"), blind, [1], 1, silent)
