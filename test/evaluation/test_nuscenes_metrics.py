"""The nuScenes metrics: the results of the devkit, closed-form results, and invariants."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from multimodal_perception.benchmarks import evaluators
from multimodal_perception.evaluation.nuscenes_metrics import (
    ERRORS,
    NuScenesProtocol,
    ScoredFrame,
    nuscenes_metrics,
)
from multimodal_perception.frame import CLASS_NAMES, Boxes3D

# The results of nuscenes-devkit 1.2.0 on the frames of the evaluators benchmark.
PUBLIC = Path(__file__).with_name("public_evaluators.json")
CARS_ONLY = NuScenesProtocol({"car": 50.0})


def objects(xy, names="car", scores=None, yaw=0.0, size=(4.0, 2.0, 1.5), velocities=None):  # type: ignore[no-untyped-def]
    n = len(xy)
    boxes = np.zeros((n, 7), np.float32)
    boxes[:, :2] = np.reshape(xy, (n, 2))
    boxes[:, 3:6], boxes[:, 6] = size, yaw
    names = [names] * n if isinstance(names, str) else names
    labels = np.array([CLASS_NAMES.index(k) for k in names], np.int64)
    values = np.array([1.0] * n if scores is None else scores, np.float32)
    speeds = None if velocities is None else np.array(velocities, np.float32).reshape(n, 2)
    return Boxes3D(0, "base_link", boxes, values, labels, velocities=speeds)


@pytest.mark.parametrize(("seed", "without"), [(1, ()), (2, ("trailer", "bus"))])
def test_metrics_equal_those_of_the_devkit(seed: int, without: tuple[str, ...]) -> None:
    expected = json.loads(PUBLIC.read_text())[f"nuscenes {seed}"]
    result = evaluators.flat_nuscenes_metrics(evaluators.nuscenes_frames(seed, 12, without))
    assert result.keys() == expected.keys()
    assert {k for k, v in result.items() if math.isnan(v)} == {
        k for k in expected if expected[k] is None
    }
    defined = [k for k in expected if expected[k] is not None]
    assert [result[k] for k in defined] == pytest.approx([expected[k] for k in defined], abs=1e-9)


def test_perfect_boxes_have_map_1_and_no_errors() -> None:
    truth = objects([(5, 0), (9, 3), (20, -7)], velocities=[(1, 0), (0, 0), (3, 3)])
    attributes = np.array([0, 1, -1])
    metrics = nuscenes_metrics([ScoredFrame(truth, truth, attributes, attributes)])
    assert metrics["map"] == pytest.approx(1.0) and metrics["nds"] == pytest.approx(1.0)
    assert [metrics[e] for e in ERRORS] == pytest.approx([0.0] * 5)
    assert metrics["labels"] == metrics["boxes"] == 3
    assert math.isnan(metrics["by_class"]["bus"]["ap"]), "a class without labels has no AP"


def test_errors_of_one_box() -> None:
    truth = objects([(10, 0)], velocities=[(3, 4)])
    detections = objects([(10.3, 0.4)], yaw=0.25, size=(4.0, 1.0, 1.5), velocities=[(0, 0)])
    metrics = nuscenes_metrics([ScoredFrame(detections, truth, np.array([2]), np.array([1]))])
    car = metrics["by_class"]["car"]
    assert car["ate"] == pytest.approx(0.5, abs=1e-6)
    assert car["ase"] == pytest.approx(0.5)
    assert car["aoe"] == pytest.approx(0.25)
    assert car["ave"] == pytest.approx(5.0)
    assert car["aae"] == 1.0
    # The distance must be less than 0.5 m; with 10.3 and 0.4 in float32 it is slightly more.
    assert car["ap_at"] == {"0.5": 0.0, "1": 1.0, "2": 1.0, "4": 1.0}
    scores = (1 - 0.5) + (1 - 0.5) + (1 - 0.25) + 0 + 0
    assert metrics["nds"] == pytest.approx((5 * 0.75 + scores) / 10, abs=1e-6)


def test_average_precision_depends_on_the_order_of_the_scores() -> None:
    # Two labels, a true and a false positive. If the true positive has the higher score, the precision
    # is 1 up to recall 0.5 (sampled at 11 % to 50 %) and 0 above; otherwise it is 0.5 at recall 0.5.
    truth = objects([(10, 0), (20, 0)])
    late = objects([(10, 0), (40, 0)], scores=[0.9, 0.8])
    early = objects([(10, 0), (40, 0)], scores=[0.8, 0.9])
    ap = [
        nuscenes_metrics([ScoredFrame(detections, truth)], CARS_ONLY)["map"]
        for detections in (late, early)
    ]
    # Normalised area above the minimum precision 0.1; at recall 0.5 the precision is 0.5.
    assert ap[0] == pytest.approx((39 * 0.9 + 0.4) / (90 * 0.9), abs=0.005)
    ramp = np.interp(np.linspace(0, 1, 101)[11:], [0, 0.5], [0, 0.5], right=0)
    assert ap[1] == pytest.approx(np.maximum(ramp - 0.1, 0).mean() / 0.9, abs=0.05)
    assert ap[0] > ap[1]


def test_label_is_matched_once_and_only_in_its_class_and_frame() -> None:
    truth = objects([(10, 0)])
    duplicates = objects([(10, 0), (10, 0)], scores=[0.9, 0.8])
    # The second box is a false positive, which lowers the precision only at recall 1.
    expected = (89 * 0.9 + 0.4) / (90 * 0.9)
    metrics = nuscenes_metrics([ScoredFrame(duplicates, truth)], CARS_ONLY)
    assert metrics["map"] == pytest.approx(expected)
    other = objects([(10, 0)], "truck")
    assert nuscenes_metrics([ScoredFrame(other, truth)])["by_class"]["car"]["ap"] == 0.0
    frames = [ScoredFrame(objects([]), truth), ScoredFrame(truth, objects([]))]
    assert nuscenes_metrics(frames)["map"] == 0.0


def test_ranges_aliases_and_maximum_number_of_boxes() -> None:
    far = ScoredFrame(objects([(45, 0)], "pedestrian"), objects([(45, 0)], "pedestrian"))
    assert nuscenes_metrics([far])["labels"] == 0, "pedestrians are evaluated up to 40 m"
    van = ScoredFrame(objects([(10, 0)], "car"), objects([(10, 0)], "van"))
    assert nuscenes_metrics([van])["by_class"]["car"]["ap"] == pytest.approx(1.0)
    assert nuscenes_metrics([van], CARS_ONLY.limit_range(9.0))["labels"] == 0
    many = objects([(5, y / 100) for y in range(600)], scores=np.linspace(0.1, 0.9, 600))
    assert nuscenes_metrics([ScoredFrame(many, objects([]))])["boxes"] == 500


def test_errors_that_cannot_be_measured_are_excluded_from_nds() -> None:
    truth = objects([(10, 0)])
    metrics = nuscenes_metrics([ScoredFrame(truth, truth)])
    assert math.isnan(metrics["ave"]) and math.isnan(metrics["aae"])
    assert metrics["nds"] == pytest.approx(1.0)
    assert metrics["nds_excluded_errors"] == ["ave", "aae"]
    # Labelled but not predicted: error 1, as in the devkit.
    moving = objects([(10, 0)], velocities=[(1, 0)])
    without = objects([(10, 0)], velocities=[(np.nan, np.nan)])
    metrics = nuscenes_metrics([ScoredFrame(without, moving, np.array([1]))])
    assert metrics["ave"] == metrics["aae"] == 1.0 and metrics["nds_excluded_errors"] == []
    # If no frame has predicted velocities, AVE is undefined; in the devkit it is 1.
    metrics = nuscenes_metrics([ScoredFrame(truth, moving)])
    assert math.isnan(metrics["ave"]) and metrics["nds"] == pytest.approx(1.0)
    assert (
        nuscenes_metrics([ScoredFrame(truth, moving)], replace(CARS_ONLY, fill_missing=True))["ave"]
        == 1.0
    )
    as_devkit = NuScenesProtocol({"car": 50.0, "bus": 50.0}, fill_missing=True)
    metrics = nuscenes_metrics([ScoredFrame(truth, truth)], as_devkit)
    assert metrics["map"] == pytest.approx(0.5) and metrics["ave"] == 1.0


def test_metrics_without_labels_and_boxes_are_nan() -> None:
    for frames in ([], [ScoredFrame(objects([]), objects([]))]):
        metrics = nuscenes_metrics(frames)
        assert math.isnan(metrics["map"]) and math.isnan(metrics["nds"])


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_boxes_that_are_none_are_refused(value: float) -> None:
    bad = objects([(value, 0)])
    with pytest.raises(ValueError, match="finite"):
        ScoredFrame(bad, objects([]))
    with pytest.raises(ValueError, match="scores must be finite"):
        ScoredFrame(replace(bad, boxes=objects([(1, 0)]).boxes, scores=bad.boxes[:, 0]), bad)
    with pytest.raises(ValueError, match="size"):
        ScoredFrame(objects([(1, 0)], size=(0, 1, 1)), objects([]))


scenes = st.lists(
    st.tuples(
        st.lists(st.tuples(st.floats(-30, 30), st.floats(-30, 30), st.integers(0, 20)), max_size=6),
        st.lists(st.tuples(st.floats(-30, 30), st.floats(-30, 30)), min_size=1, max_size=5),
    ),
    min_size=1,
    max_size=4,
)


def scored_frames(scene) -> list[ScoredFrame]:  # type: ignore[no-untyped-def]
    return [
        ScoredFrame(objects([b[:2] for b in f], scores=[b[2] / 20 for b in f]), objects(t))
        for f, t in scene
    ]


@settings(max_examples=60)
@given(scenes)
def test_invariants_of_the_metrics(scene) -> None:  # type: ignore[no-untyped-def]
    frames = scored_frames(scene)
    metrics = nuscenes_metrics(frames, CARS_ONLY)
    ap = list(metrics["by_class"]["car"]["ap_at"].values())
    assert 0.0 <= metrics["map"] <= 1.0 and 0.0 <= metrics["nds"] <= 1.0
    # A false positive never increases AP.
    more = [
        replace(
            f,
            predicted=objects(
                [*f.predicted.boxes[:, :2], (-45, 0)], scores=[*f.predicted.scores, -1.0]
            ),
        )
        for f in frames
    ]
    worse = list(nuscenes_metrics(more, CARS_ONLY)["by_class"]["car"]["ap_at"].values())
    assert all(w <= a + 1e-12 for w, a in zip(worse, ap, strict=True))
    # Only the order of the scores matters.
    scaled = [
        replace(f, predicted=replace(f.predicted, scores=f.predicted.scores / 8)) for f in frames
    ]
    assert nuscenes_metrics(scaled, CARS_ONLY)["map"] == pytest.approx(metrics["map"])
    # A rotation of boxes and labels does not change the metrics.
    rotation = np.array([[0.0, -1, 0, 0], [1, 0, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]])
    rotated = [
        replace(
            f,
            predicted=f.predicted.transformed(rotation, "b"),
            truth=f.truth.transformed(rotation, "b"),
        )
        for f in frames
    ]
    assert nuscenes_metrics(rotated, CARS_ONLY)["map"] == pytest.approx(metrics["map"])
