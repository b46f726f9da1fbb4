"""nuScenes' figures: the devkit's own answers, answers in closed form, and what must always hold."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from multimodal_perception.cli.bench import load_benchmark
from multimodal_perception.evaluation.nuscenes_metrics import (
    ERRORS,
    NuScenesProtocol,
    ScoredFrame,
    nuscenes_metrics,
)
from multimodal_perception.frame import CLASS_NAMES, Boxes3D

# nuscenes-devkit 1.2.0's answers to benchmarks/evaluators.py's frames.
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
def test_the_same_figures_as_the_devkit(seed: int, without: tuple[str, ...]) -> None:
    bench = load_benchmark("evaluators")
    public = json.loads(PUBLIC.read_text())[f"nuscenes {seed}"]
    mine = bench.nuscenes_numbers(bench.nuscenes_frames(seed, 12, without))
    assert mine.keys() == public.keys()
    assert {k for k, v in mine.items() if math.isnan(v)} == {k for k in public if public[k] is None}
    told = [k for k in public if public[k] is not None]
    assert [mine[k] for k in told] == pytest.approx([public[k] for k in told], abs=1e-9)


def test_perfect_boxes_have_perfect_figures() -> None:
    truth = objects([(5, 0), (9, 3), (20, -7)], velocities=[(1, 0), (0, 0), (3, 3)])
    kinds = np.array([0, 1, -1])
    figures = nuscenes_metrics([ScoredFrame(truth, truth, kinds, kinds)])
    assert figures["map"] == pytest.approx(1.0) and figures["nds"] == pytest.approx(1.0)
    assert [figures[e] for e in ERRORS] == pytest.approx([0.0] * 5)
    assert figures["labels"] == figures["boxes"] == 3
    assert math.isnan(figures["by_class"]["bus"]["ap"]), (
        "without labels there is nothing to measure"
    )


def test_errors_in_closed_form() -> None:
    truth = objects([(10, 0)], velocities=[(3, 4)])
    found = objects([(10.3, 0.4)], yaw=0.25, size=(4.0, 1.0, 1.5), velocities=[(0, 0)])
    figures = nuscenes_metrics([ScoredFrame(found, truth, np.array([2]), np.array([1]))])
    car = figures["by_class"]["car"]
    assert car["ate"] == pytest.approx(0.5, abs=1e-6)
    assert car["ase"] == pytest.approx(0.5)
    assert car["aoe"] == pytest.approx(0.25)
    assert car["ave"] == pytest.approx(5.0)
    assert car["aae"] == 1.0
    # 0.5 m is not less than 0.5 m in exact numbers; 10.3 and 0.4 in float32 are a hair further.
    assert car["ap_at"] == {"0.5": 0.0, "1": 1.0, "2": 1.0, "4": 1.0}
    scores = (1 - 0.5) + (1 - 0.5) + (1 - 0.25) + 0 + 0
    assert figures["nds"] == pytest.approx((5 * 0.75 + scores) / 10, abs=1e-6)


def test_average_precision_in_closed_form() -> None:
    # Of two labels the first box finds one, the second is wrong: precision 1 up to recall 0.5 (read at
    # 11 % to 50 %), nothing above. A mistake before the find halves it: 0.5 at 11 % to 50 %.
    truth = objects([(10, 0), (20, 0)])
    late = objects([(10, 0), (40, 0)], scores=[0.9, 0.8])
    early = objects([(10, 0), (40, 0)], scores=[0.8, 0.9])
    ap = [
        nuscenes_metrics([ScoredFrame(found, truth)], CARS_ONLY)["map"] for found in (late, early)
    ]
    # Above the least precision 0.1, over what can be had; recall 0.5 holds precision 0.5 of the second.
    assert ap[0] == pytest.approx((39 * 0.9 + 0.4) / (90 * 0.9), abs=0.005)
    ramp = np.interp(np.linspace(0, 1, 101)[11:], [0, 0.5], [0, 0.5], right=0)
    assert ap[1] == pytest.approx(np.maximum(ramp - 0.1, 0).mean() / 0.9, abs=0.05)
    assert ap[0] > ap[1]


def test_a_label_is_found_once_and_of_its_own_class_and_frame() -> None:
    truth = objects([(10, 0)])
    twice = objects([(10, 0), (10, 0)], scores=[0.9, 0.8])
    # The second is wrong, which shows at full recall alone: 0.5 - 0.1 there, 1 - 0.1 at the other 89.
    expected = (89 * 0.9 + 0.4) / (90 * 0.9)
    assert nuscenes_metrics([ScoredFrame(twice, truth)], CARS_ONLY)["map"] == pytest.approx(
        expected
    )
    other = objects([(10, 0)], "truck")
    assert nuscenes_metrics([ScoredFrame(other, truth)])["by_class"]["car"]["ap"] == 0.0
    frames = [ScoredFrame(objects([]), truth), ScoredFrame(truth, objects([]))]
    assert nuscenes_metrics(frames)["map"] == 0.0


def test_range_aliases_and_the_most_boxes() -> None:
    far = ScoredFrame(objects([(45, 0)], "pedestrian"), objects([(45, 0)], "pedestrian"))
    assert nuscenes_metrics([far])["labels"] == 0, "pedestrians count up to 40 m"
    van = ScoredFrame(objects([(10, 0)], "car"), objects([(10, 0)], "van"))
    assert nuscenes_metrics([van])["by_class"]["car"]["ap"] == pytest.approx(1.0)
    assert nuscenes_metrics([van], CARS_ONLY.within(9.0))["labels"] == 0
    many = objects([(5, y / 100) for y in range(600)], scores=np.linspace(0.1, 0.9, 600))
    assert nuscenes_metrics([ScoredFrame(many, objects([]))])["boxes"] == 500


def test_what_labels_do_not_tell_has_no_value_and_no_part_in_the_score() -> None:
    truth = objects([(10, 0)])
    figures = nuscenes_metrics([ScoredFrame(truth, truth)])
    assert math.isnan(figures["ave"]) and math.isnan(figures["aae"])
    assert figures["nds"] == pytest.approx(1.0)
    assert figures["nds_without"] == ["ave", "aae"]
    # Told, but not answered: wrong, as the devkit has it.
    moving = objects([(10, 0)], velocities=[(1, 0)])
    silent = objects([(10, 0)], velocities=[(np.nan, np.nan)])
    figures = nuscenes_metrics([ScoredFrame(silent, moving, np.array([1]))])
    assert figures["ave"] == figures["aae"] == 1.0 and figures["nds_without"] == []
    # Velocities that no frame has were not asked for; the devkit makes no such difference.
    figures = nuscenes_metrics([ScoredFrame(truth, moving)])
    assert math.isnan(figures["ave"]) and figures["nds"] == pytest.approx(1.0)
    assert (
        nuscenes_metrics([ScoredFrame(truth, moving)], replace(CARS_ONLY, fill_absent=True))["ave"]
        == 1.0
    )
    as_devkit = NuScenesProtocol({"car": 50.0, "bus": 50.0}, fill_absent=True)
    figures = nuscenes_metrics([ScoredFrame(truth, truth)], as_devkit)
    assert figures["map"] == pytest.approx(0.5) and figures["ave"] == 1.0


def test_nothing_at_all_has_no_value() -> None:
    for frames in ([], [ScoredFrame(objects([]), objects([]))]):
        figures = nuscenes_metrics(frames)
        assert math.isnan(figures["map"]) and math.isnan(figures["nds"])


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


def framed(scene) -> list[ScoredFrame]:  # type: ignore[no-untyped-def]
    return [
        ScoredFrame(objects([b[:2] for b in f], scores=[b[2] / 20 for b in f]), objects(t))
        for f, t in scene
    ]


@settings(max_examples=60)
@given(scenes)
def test_what_always_holds(scene) -> None:  # type: ignore[no-untyped-def]
    frames = framed(scene)
    figures = nuscenes_metrics(frames, CARS_ONLY)
    ap = list(figures["by_class"]["car"]["ap_at"].values())
    assert 0.0 <= figures["map"] <= 1.0 and 0.0 <= figures["nds"] <= 1.0
    # A wrong box never helps.
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
    # Scores matter by their order alone.
    squeezed = [
        replace(f, predicted=replace(f.predicted, scores=f.predicted.scores / 8)) for f in frames
    ]
    assert nuscenes_metrics(squeezed, CARS_ONLY)["map"] == pytest.approx(figures["map"])
    # Turned and mirrored worlds are judged alike.
    turn = np.array([[0.0, -1, 0, 0], [1, 0, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]])
    turned = [
        replace(
            f, predicted=f.predicted.transformed(turn, "b"), truth=f.truth.transformed(turn, "b")
        )
        for f in frames
    ]
    assert nuscenes_metrics(turned, CARS_ONLY)["map"] == pytest.approx(figures["map"])
