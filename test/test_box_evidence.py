"""Evidence of boxes: combination, selection, concatenation, and masses of a box's class."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from multimodal_perception.box_evidence import (
    GROUPS,
    MODALITIES,
    NOTHING,
    BoxEvidence,
    class_groups,
    class_masses,
)
from multimodal_perception.frame import CLASS_NAMES, Boxes3D
from multimodal_perception.object_evidence import describe_objects
from multimodal_perception.opinions import Opinions, combine, discount, from_evidence
from multimodal_perception.tracking import Tracker

VEHICLE = GROUPS.index("vehicle")
MODALITY_OF = {"lidar": "lidar", "left": "camera", "right": "camera", "ultrasonic": "ultrasonic"}


def opinions(seed: int, count: int) -> Opinions:
    rng = np.random.default_rng(seed)
    return from_evidence(rng.exponential(3.0, (count, len(GROUPS))))


def evidence(seed: int, count: int, *sources: str) -> BoxEvidence:
    given = {name: opinions(seed + k, count) for k, name in enumerate(sources)}
    weights = {name: 0.5 + 0.1 * k for k, name in enumerate(sources)}
    return BoxEvidence.combined(given, MODALITY_OF, weights, count)


def boxes_of(count: int, given: BoxEvidence | None) -> Boxes3D:
    boxes = np.tile(np.array([10, 0, 0.8, 4, 2, 1.6, 0], np.float32), (count, 1))
    boxes[:, 1] = 5 * np.arange(count)
    labels = np.array([CLASS_NAMES.index("car")] * count, np.int64)
    return Boxes3D(0, "base_link", boxes, np.ones(count, np.float32), labels, evidence=given)


@given(st.integers(0, 1000), st.permutations(list(MODALITY_OF)), st.integers(1, 4))
@settings(max_examples=25, deadline=None)
def test_the_combination_is_that_of_the_discounted_opinions_in_any_order(
    seed: int, order: list[str], sources: int
) -> None:
    chosen = order[:sources]
    given = {name: opinions(seed + k, 5) for k, name in enumerate(chosen)}
    weights = dict.fromkeys(chosen, 0.6)
    found = BoxEvidence.combined(given, MODALITY_OF, weights, 5)
    expected = combine([discount(o, 0.6) for o in reversed(given.values())])
    np.testing.assert_allclose(found.combined_belief, expected.opinions.belief, atol=1e-12)
    np.testing.assert_allclose(found.conflict, expected.conflict, atol=1e-9)
    total = found.combined_belief.sum(axis=1) + found.total_uncertainty
    np.testing.assert_allclose(total, 1.0)
    # The combination of the modalities is that of the sources.
    parts = list(found.modality_opinions().values())
    np.testing.assert_allclose(combine(parts).opinions.belief, found.combined_belief, atol=1e-9)


def test_selection_and_concatenation_keep_the_opinions_of_each_box() -> None:
    first, second = evidence(0, 3, "lidar", "left"), evidence(7, 2, "left", "ultrasonic")
    boxes = Boxes3D.concatenate([boxes_of(3, first), boxes_of(1, None), boxes_of(2, second)])
    found = boxes.evidence
    assert found is not None and found.sources == ("lidar", "left", "ultrasonic")
    np.testing.assert_allclose(found.belief[:3, :2], first.belief)
    np.testing.assert_allclose(found.belief[4:, 1:], second.belief)
    assert (found.uncertainty[3] == 1).all() and (found.uncertainty[4:, 0] == 1).all()
    assert found.total_uncertainty[3] == 1 and found.conflict[3] == 0
    chosen = boxes.select(np.array([5, 0])).evidence
    assert chosen is not None
    np.testing.assert_array_equal(chosen.belief, found.belief[[5, 0]])
    np.testing.assert_array_equal(chosen.conflict, found.conflict[[5, 0]])
    assert boxes.select(np.zeros(6, bool)).evidence is not None
    moved = boxes.transformed(np.eye(4), "odom")
    assert moved.evidence is found
    assert Boxes3D.concatenate([boxes_of(1, None), boxes_of(2, None)]).evidence is None


def test_the_tracker_keeps_the_evidence() -> None:
    from multimodal_perception.frame import SensorFrame

    given = evidence(1, 2, "lidar", "left")
    tracked = Tracker().update(boxes_of(2, given), SensorFrame(0))
    assert tracked.track_ids is not None and tracked.evidence is given


def test_evidence_needs_one_row_per_box() -> None:
    with pytest.raises(ValueError, match="evidence must have one row per box"):
        boxes_of(2, evidence(0, 3, "lidar"))


def test_masses_of_a_class_and_of_an_unknown_class() -> None:
    opinion = Opinions(np.array([[0.5, 0.1, 0.0, 0.0, 0.2]] * 3), np.array([0.2] * 3))
    belief, disbelief = class_masses(opinion, np.array([VEHICLE, NOTHING, -1]))
    np.testing.assert_allclose(belief, [0.5, 0.2, 0.6])
    np.testing.assert_allclose(disbelief, [0.3, 0.6, 0.2])
    assert class_groups(("car", "tree")).tolist() == [VEHICLE, -1]


def test_objects_are_described_by_modality_and_by_camera() -> None:
    certain = Opinions(np.array([[0.9, 0, 0, 0, 0]]), np.array([0.1]))
    against = Opinions(np.array([[0.0, 0, 0, 0, 0.8]]), np.array([0.2]))
    unobserved = Opinions(np.zeros((1, 5)), np.ones(1))
    given = {"lidar": certain, "left": against, "right": unobserved}
    boxes = boxes_of(1, BoxEvidence.combined(given, MODALITY_OF, {}, 1))
    (item,) = describe_objects(boxes)
    assert (item.name, item.class_name) == ("box 0", "car")
    assert tuple(item.masses) == MODALITIES
    assert item.masses["camera"] == pytest.approx((0.0, 0.8, 0.2))
    assert item.masses["thermal"] == item.masses["ultrasonic"] == (0.0, 0.0, 1.0)
    assert set(item.sensors) == {"left"}
    assert item.supporting == ("lidar",) and item.contradicting == ("left",)
    assert item.conflict == pytest.approx(0.9 * 0.8)
    assert item.text == "L 0.9 C 0.0 T ? U ? | conflict 0.7"
    (tracked,) = describe_objects(replace(boxes, track_ids=np.array([7])))
    assert tracked.name == "7"
    assert describe_objects(boxes_of(1, None)) == []
