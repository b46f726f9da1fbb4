"""KITTI's AP: a public evaluator's answers, answers by hand, and the rules of its difficulties."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from multimodal_perception.cli.bench import load_benchmark
from multimodal_perception.evaluation.kitti_metrics import (
    METRICS,
    KittiFrame,
    KittiObjects,
    image_overlap,
    kitti_metrics,
)

# OpenPCDet's answers (its overlaps computed by shapely) to benchmarks/evaluators.py's frames.
PUBLIC = Path(__file__).with_name("public_evaluators.json")
ROW = 10.0 * np.arange(200)
FALLING = np.linspace(0.8, 0.1, 200)


def objects(x, types="Car", scores=None, height=60.0, occlusion=0, truncation=0.0, shift=0.0):  # type: ignore[no-untyped-def]
    """Objects at x metres; in the image each 100 pixels right of the one before and `height` high."""
    n = len(x)
    boxes = np.zeros((n, 7))
    boxes[:, 0], boxes[:, 3:6] = np.asarray(x) + shift, (4.0, 2.0, 1.5)
    left = 100.0 * np.arange(n)
    image = np.column_stack([left, np.zeros(n), left + 80, np.broadcast_to(height, n)])
    types = (types,) * n if isinstance(types, str) else tuple(types)
    if scores is not None:
        return KittiObjects(types, boxes, image, np.array(scores, float))
    hidden = np.broadcast_to(np.array(occlusion, np.int64), n).copy()
    outside = np.broadcast_to(np.array(truncation, float), n).copy()
    return KittiObjects(types, boxes, image, occlusion=hidden, truncation=outside)


def levels(found: KittiObjects, truth: KittiObjects, metric="3d", name="Car") -> list[float]:  # type: ignore[no-untyped-def]
    return list(kitti_metrics([KittiFrame(found, truth)])[metric][name].values())


def test_the_same_figures_as_openpcdet() -> None:
    bench = load_benchmark("evaluators")
    public = json.loads(PUBLIC.read_text())["kitti 1"]
    mine = bench.kitti_numbers(bench.kitti_frames(1, 20))
    assert mine == pytest.approx(public, abs=1e-9)


@pytest.mark.parametrize("metric", METRICS)
def test_perfect_boxes_and_none(metric: str) -> None:
    assert levels(objects(ROW, scores=FALLING), objects(ROW), metric) == [100.0] * 3
    assert levels(objects([], scores=[]), objects(ROW), metric) == [0.0] * 3
    assert np.isnan(levels(objects(ROW, scores=FALLING), objects([]), metric)).all()


def test_average_precision_by_hand() -> None:
    # The better half of the labels is found without a mistake: precision 1 at 20 of 40 recalls.
    half = objects(ROW[:100], scores=FALLING[:100])
    assert levels(half, objects(ROW)) == [50.0] * 3
    # A mistake before each find halves every precision.
    pairs = np.column_stack([ROW[:100] + 5000.0, ROW[:100]]).ravel()
    assert levels(objects(pairs, scores=FALLING), objects(ROW)) == [25.0] * 3
    # Few labels cannot reach 41 recalls, as KITTI reads them: all of 10 are found.
    few = objects(ROW[:10], scores=FALLING[:10])
    assert levels(few, objects(ROW[:10])) == [pytest.approx(100 * 9 / 40)] * 3


def test_overlap_must_exceed_the_classes_least() -> None:
    # Shifted by s along its 4 m a box overlaps itself by (4 - s) / (4 + s): 0.7.
    edge = 4 * 0.3 / 1.7
    for shift, right in ((edge - 0.01, 100.0), (edge + 0.01, 0.0)):
        found = objects(ROW, scores=FALLING, shift=shift)
        result = kitti_metrics([KittiFrame(found, objects(ROW))])
        assert result["3d"]["Car"]["easy"] == result["bev"]["Car"]["easy"] == right
        assert result["image"]["Car"]["easy"] == 100.0
    loose = kitti_metrics([KittiFrame(found, objects(ROW))], {"Car": 0.5})
    assert loose["3d"]["Car"]["easy"] == 100.0


@pytest.mark.parametrize(
    ("changes", "labels"),
    [
        ({}, [1, 1, 1]),
        ({"occlusion": 1}, [0, 1, 1]),
        ({"occlusion": 2}, [0, 0, 1]),
        ({"occlusion": 3}, [0, 0, 0]),
        ({"truncation": 0.15}, [1, 1, 1]),
        ({"truncation": 0.2}, [0, 1, 1]),
        ({"truncation": 0.4}, [0, 0, 1]),
        ({"height": 40.0}, [0, 1, 1]),
        ({"height": 25.0}, [0, 0, 0]),
    ],
)
def test_which_labels_count_at_which_difficulty(changes, labels) -> None:  # type: ignore[no-untyped-def]
    frame = KittiFrame(objects([], scores=[]), objects([10.0], **changes))
    assert list(kitti_metrics([frame])["labels"]["Car"].values()) == labels


def many(extra_found: KittiObjects, extra_truth: KittiObjects) -> dict:  # type: ignore[type-arg]
    """A frame of good cars, and one with what is tried, its score above theirs."""
    good = KittiFrame(objects(ROW, scores=FALLING), objects(ROW))
    return kitti_metrics([good, KittiFrame(extra_found, extra_truth)])


def test_what_is_ignored_costs_nothing_and_what_is_wrong_does() -> None:
    found = objects([10.0], scores=[0.9])
    none = objects([])
    stray = many(found, none)["3d"]["Car"]
    assert all(ap < 99.9 for ap in stray.values())
    for truth in (
        objects([10.0], occlusion=3),
        objects([10.0], "Van"),
        objects([10.0], height=20.0),
    ):
        assert list(many(found, truth)["3d"]["Car"].values()) == [100.0] * 3
    assert many(found, objects([10.0], "Truck"))["3d"]["Car"] == stray
    # A rectangle less high than the least is not judged.
    low = objects([10.0], scores=[0.9], height=30.0)
    assert list(many(low, none)["3d"]["Car"].values()) == [100.0, *list(stray.values())[1:]]
    other = objects([10.0], "Cyclist", scores=[0.9])
    assert list(many(other, none)["3d"]["Car"].values()) == [100.0] * 3


def test_dont_care_regions_excuse_boxes_in_the_image_alone() -> None:
    found = objects([10.0], scores=[0.9])
    truth = objects([-1000.0], "DontCare", occlusion=-1, truncation=-1.0)
    result = many(found, truth)
    assert result["image"]["Car"]["easy"] == 100.0
    assert result["3d"]["Car"]["easy"] < 99.9 and result["bev"]["Car"]["easy"] < 99.9
    # Half of the box in the region is not enough for a car's 0.7.
    half = replace(truth, image_boxes=np.array([[40.0, 0, 120, 60]]))
    assert many(found, half)["image"]["Car"]["easy"] < 99.9


def test_overlap_of_rectangles_by_hand() -> None:
    a, b = np.array([[0.0, 0, 4, 2]]), np.array([[2.0, 1, 6, 3], [4, 0, 5, 1], [0, 0, 4, 2]])
    assert image_overlap(a, b)[0] == pytest.approx([2 / 14, 0.0, 1.0])
    assert image_overlap(a, b, of_first=True)[0] == pytest.approx([0.25, 0.0, 1.0])
    assert image_overlap(np.zeros((1, 4)), np.zeros((1, 4))).tolist() == [[0.0]]


def test_bad_objects_are_refused() -> None:
    with pytest.raises(ValueError, match="scores"):
        KittiFrame(objects([1.0]), objects([1.0]))
    with pytest.raises(ValueError, match="occlusion"):
        KittiFrame(objects([1.0], scores=[1.0]), objects([1.0], scores=[1.0]))
    with pytest.raises(ValueError, match="finite"):
        objects([1.0], scores=[np.nan])
    with pytest.raises(ValueError, match="must be"):
        KittiObjects(("Car",), np.zeros((2, 7)), np.zeros((1, 4)))


@settings(max_examples=40)
@given(
    st.lists(st.tuples(st.integers(0, 12), st.integers(1, 50)), max_size=8),
    st.lists(st.integers(0, 12), min_size=1, max_size=6, unique=True),
)
def test_what_always_holds(found, there) -> None:  # type: ignore[no-untyped-def]
    truth = objects([10.0 * k for k in there])
    boxes = objects([10.0 * k for k, _ in found], scores=[s / 50 for _, s in found])
    figures = kitti_metrics([KittiFrame(boxes, truth)])
    for metric in ("bev", "3d"):
        assert all(0.0 <= ap <= 100.0 for ap in figures[metric]["Car"].values())
    # What is right in space is right on the ground.
    assert figures["bev"]["Car"]["easy"] >= figures["3d"]["Car"]["easy"] - 1e-9
    squeezed = replace(boxes, scores=boxes.scores / 3)
    assert kitti_metrics([KittiFrame(squeezed, truth)])["3d"]["Car"] == figures["3d"]["Car"]
