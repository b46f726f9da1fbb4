"""Simulated class scores of 2D networks: errors by object, boxes, masks, false objects."""

from __future__ import annotations

import numpy as np
import pytest

from multimodal_perception.detection.bev_fusion.network_config import PAINT_GROUPS
from multimodal_perception.frame import CLASS_NAMES
from multimodal_perception.training.bev_fusion.painting import (
    PaintingConfig,
    image_scores,
    object_scores,
)
from multimodal_perception.training.bev_fusion.samples import SEGMENT_NAMES, UNKNOWN_SEGMENT

PERFECT = PaintingConfig(0, 0, 0, 0, 0, 0, 0)
GROUP = {name: k for k, name in enumerate(PAINT_GROUPS)}
CAR, PERSON = CLASS_NAMES.index("car"), CLASS_NAMES.index("pedestrian")


def masks() -> tuple[np.ndarray, np.ndarray]:
    """Semantics and objects of an image with a car (object 1) and a person (object 2)."""
    semantics, objects = np.zeros((40, 60), np.uint8), np.zeros((40, 60), np.uint16)
    for number, name, part in (
        (1, "car", np.s_[20:30, 10:30]),
        (2, "pedestrian", np.s_[15:30, 40:44]),
    ):
        semantics[part], objects[part] = SEGMENT_NAMES.index(name), number
    semantics[:, 58:] = UNKNOWN_SEGMENT
    return semantics, objects


def test_scores_without_errors_are_those_of_the_class() -> None:
    rng = np.random.default_rng(0)
    scores = object_scores(np.array([CAR, PERSON] * 50), np.full(100, 1e6), PERFECT, rng)
    assert scores.sum(axis=1) == pytest.approx(np.ones(100))
    assert (scores[::2].argmax(axis=1) != GROUP["small_vehicle"]).mean() < 0.2
    assert (scores[1::2, GROUP["pedestrian"]] >= 0.4).all()


def test_small_objects_are_missed_more_often() -> None:
    rng, config = np.random.default_rng(0), PaintingConfig(confused=0.0)
    missed = {
        size: (
            object_scores(np.full(500, PERSON), np.full(500, size), config, rng)[
                :, GROUP["pedestrian"]
            ]
            < 0.4
        ).mean()
        for size in (10.0, 1000.0)
    }
    assert missed[10.0] > 0.4 and missed[1000.0] < 0.12


def test_networks_with_one_class_of_vehicles_do_not_distinguish_them() -> None:
    rng = np.random.default_rng(0)
    config = PaintingConfig(missed=0.0, confused=0.0, one_vehicle_class=1.0)
    labels = np.array([CAR, CLASS_NAMES.index("bus")])
    scores = object_scores(labels, np.full(2, 1e6), config, rng)
    share = scores[:, GROUP["small_vehicle"]] / scores[:, [0, 1]].sum(axis=1)
    assert share == pytest.approx([0.75, 0.75]) and scores.sum(axis=1) == pytest.approx([1, 1])


@pytest.mark.parametrize("boxes", [0.0, 1.0])
@pytest.mark.parametrize("seed", range(5))
def test_images_are_painted_where_the_objects_are(boxes: float, seed: int) -> None:
    semantics, objects = masks()
    rows = np.zeros((2, len(PAINT_GROUPS)), np.float32)
    rows[0, GROUP["small_vehicle"]] = rows[1, GROUP["pedestrian"]] = 1.0
    config = PaintingConfig(boxes=boxes, false_objects=0.0)
    rng = np.random.default_rng(seed)
    scores = image_scores(semantics, objects, rows, config, rng)
    assert scores.shape == (*semantics.shape, len(PAINT_GROUPS))
    assert scores.sum(axis=2) == pytest.approx(np.ones(semantics.shape), abs=1e-5)
    assert scores[25, 20, GROUP["small_vehicle"]] == pytest.approx(1.0)
    assert scores[22, 41:43, GROUP["pedestrian"]].max() > 0.6
    assert scores[5, 5, GROUP["background"]] == scores[25, 59, GROUP["background"]] == 1.0


def test_false_objects_are_painted_at_random_places() -> None:
    semantics, objects = masks()
    rows = np.zeros((2, len(PAINT_GROUPS)), np.float32)
    rows[:, GROUP["background"]] = 1.0
    config = PaintingConfig(boxes=0.0, false_objects=6.0)
    scores = image_scores(semantics, objects, rows, config, np.random.default_rng(0))
    assert (scores[..., GROUP["background"]] < 0.8).sum() > 20
    assert scores.sum(axis=2) == pytest.approx(np.ones(semantics.shape), abs=1e-5)
