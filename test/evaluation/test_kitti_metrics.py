"""The KITTI metrics: results of a public evaluator, known results, and the difficulty levels."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from multimodal_perception.benchmarks import evaluators
from multimodal_perception.evaluation.kitti_metrics import (
    METRICS,
    KittiFrame,
    KittiObjects,
    image_overlap,
    kitti_metrics,
)

# Results of OpenPCDet (with overlaps computed by shapely) on the frames of the evaluators benchmark.
PUBLIC = Path(__file__).with_name("public_evaluators.json")
ROW = 10.0 * np.arange(200)
FALLING = np.linspace(0.8, 0.1, 200)


def objects(x, types="Car", scores=None, height=60.0, occlusion=0, truncation=0.0, shift=0.0):  # type: ignore[no-untyped-def]
    """Objects at x metres, in the image at steps of 100 pixels and with the given height."""
    n = len(x)
    boxes = np.zeros((n, 7))
    boxes[:, 0], boxes[:, 3:6] = np.asarray(x) + shift, (4.0, 2.0, 1.5)
    left = 100.0 * np.arange(n)
    image = np.column_stack([left, np.zeros(n), left + 80, np.broadcast_to(height, n)])
    types = (types,) * n if isinstance(types, str) else tuple(types)
    if scores is not None:
        return KittiObjects(types, boxes, image, np.array(scores, float))
    occlusions = np.broadcast_to(np.array(occlusion, np.int64), n).copy()
    truncations = np.broadcast_to(np.array(truncation, float), n).copy()
    return KittiObjects(types, boxes, image, occlusion=occlusions, truncation=truncations)


def levels(detections: KittiObjects, truth: KittiObjects, metric="3d", name="Car") -> list[float]:  # type: ignore[no-untyped-def]
    return list(kitti_metrics([KittiFrame(detections, truth)])[metric][name].values())


def test_metrics_equal_those_of_openpcdet() -> None:
    expected = json.loads(PUBLIC.read_text())["kitti 1"]
    result = evaluators.flat_kitti_metrics(evaluators.kitti_frames(1, 20))
    assert result == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("metric", METRICS)
def test_perfect_boxes_have_ap_100_and_no_boxes_have_ap_0(metric: str) -> None:
    assert levels(objects(ROW, scores=FALLING), objects(ROW), metric) == [100.0] * 3
    assert levels(objects([], scores=[]), objects(ROW), metric) == [0.0] * 3
    assert np.isnan(levels(objects(ROW, scores=FALLING), objects([]), metric)).all()


def test_average_precision_of_known_cases() -> None:
    # Half of the labels are detected without false positives: precision 1 at 20 of 40 recalls.
    half = objects(ROW[:100], scores=FALLING[:100])
    assert levels(half, objects(ROW)) == [50.0] * 3
    # A false positive before each true positive halves every precision.
    pairs = np.column_stack([ROW[:100] + 5000.0, ROW[:100]]).ravel()
    assert levels(objects(pairs, scores=FALLING), objects(ROW)) == [25.0] * 3
    # With 10 labels only 10 of the 41 recalls are reached, even if all labels are detected.
    few = objects(ROW[:10], scores=FALLING[:10])
    assert levels(few, objects(ROW[:10])) == [pytest.approx(100 * 9 / 40)] * 3


def test_overlap_must_exceed_the_minimum_of_the_class() -> None:
    # A box shifted by s along its length of 4 m has the IoU (4 - s) / (4 + s).
    limit = 4 * 0.3 / 1.7
    for shift, expected in ((limit - 0.01, 100.0), (limit + 0.01, 0.0)):
        detections = objects(ROW, scores=FALLING, shift=shift)
        result = kitti_metrics([KittiFrame(detections, objects(ROW))])
        assert result["3d"]["Car"]["easy"] == result["bev"]["Car"]["easy"] == expected
        assert result["image"]["Car"]["easy"] == 100.0
    loose = kitti_metrics([KittiFrame(detections, objects(ROW))], {"Car": 0.5})
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
def test_labels_are_evaluated_by_difficulty(changes, labels) -> None:  # type: ignore[no-untyped-def]
    frame = KittiFrame(objects([], scores=[]), objects([10.0], **changes))
    assert list(kitti_metrics([frame])["labels"]["Car"].values()) == labels


def metrics_with_extra_frame(detections: KittiObjects, truth: KittiObjects) -> dict:  # type: ignore[type-arg]
    """The metrics of a frame with perfect boxes and of one with the given objects."""
    perfect = KittiFrame(objects(ROW, scores=FALLING), objects(ROW))
    return kitti_metrics([perfect, KittiFrame(detections, truth)])


def test_only_boxes_that_are_not_ignored_lower_ap() -> None:
    box = objects([10.0], scores=[0.9])
    none = objects([])
    false_positive = metrics_with_extra_frame(box, none)["3d"]["Car"]
    assert all(ap < 99.9 for ap in false_positive.values())
    for truth in (
        objects([10.0], occlusion=3),
        objects([10.0], "Van"),
        objects([10.0], height=20.0),
    ):
        ap = metrics_with_extra_frame(box, truth)["3d"]["Car"]
        assert list(ap.values()) == [100.0] * 3
    truck = objects([10.0], "Truck")
    assert metrics_with_extra_frame(box, truck)["3d"]["Car"] == false_positive
    # An image box below the minimum height is ignored.
    low = objects([10.0], scores=[0.9], height=30.0)
    ap = metrics_with_extra_frame(low, none)["3d"]["Car"]
    assert list(ap.values()) == [100.0, *list(false_positive.values())[1:]]
    cyclist = objects([10.0], "Cyclist", scores=[0.9])
    ap = metrics_with_extra_frame(cyclist, none)["3d"]["Car"]
    assert list(ap.values()) == [100.0] * 3


def test_dont_care_regions_only_affect_the_image_metric() -> None:
    box = objects([10.0], scores=[0.9])
    truth = objects([-1000.0], "DontCare", occlusion=-1, truncation=-1.0)
    result = metrics_with_extra_frame(box, truth)
    assert result["image"]["Car"]["easy"] == 100.0
    assert result["3d"]["Car"]["easy"] < 99.9 and result["bev"]["Car"]["easy"] < 99.9
    # Half of the box is inside the region, less than the minimum overlap of 0.7.
    half = replace(truth, image_boxes=np.array([[40.0, 0, 120, 60]]))
    assert metrics_with_extra_frame(box, half)["image"]["Car"]["easy"] < 99.9


def test_image_overlap_of_known_boxes() -> None:
    a, b = np.array([[0.0, 0, 4, 2]]), np.array([[2.0, 1, 6, 3], [4, 0, 5, 1], [0, 0, 4, 2]])
    assert image_overlap(a, b)[0] == pytest.approx([2 / 14, 0.0, 1.0])
    assert image_overlap(a, b, of_first=True)[0] == pytest.approx([0.25, 0.0, 1.0])
    assert image_overlap(np.zeros((1, 4)), np.zeros((1, 4))).tolist() == [[0.0]]


def test_invalid_objects_are_refused() -> None:
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
def test_invariants_of_the_metrics(detected, labelled) -> None:  # type: ignore[no-untyped-def]
    truth = objects([10.0 * k for k in labelled])
    boxes = objects([10.0 * k for k, _ in detected], scores=[s / 50 for _, s in detected])
    metrics = kitti_metrics([KittiFrame(boxes, truth)])
    for metric in ("bev", "3d"):
        assert all(0.0 <= ap <= 100.0 for ap in metrics[metric]["Car"].values())
    # A true positive in 3D is also one in the bird's-eye view.
    assert metrics["bev"]["Car"]["easy"] >= metrics["3d"]["Car"]["easy"] - 1e-9
    scaled = replace(boxes, scores=boxes.scores / 3)
    assert kitti_metrics([KittiFrame(scaled, truth)])["3d"]["Car"] == metrics["3d"]["Car"]
