"""Matching, selection and targets of proposals in the training of the refinement."""

from __future__ import annotations

import numpy as np

from multimodal_perception.training.bev_fusion.proposal_selection import (
    match_proposals,
    select_proposals,
    target_scores,
)


def test_a_proposal_of_the_end_of_a_bus_is_matched_to_the_bus() -> None:
    bus = [20.0, 1.0, 1.5, 12.0, 2.5, 3.0, 0.2]
    along = np.array([np.cos(0.2), np.sin(0.2)])
    end = [*(np.array(bus[:2]) - 3.6 * along), 1.5, 4.8, 2.4, 2.9, 0.2]  # 0.22 of the bus
    beside = [20.0, 3.4, 1.5, 4.8, 2.4, 2.9, 0.2]
    flat = [20.0, 1.0, 0.1, 1.0, 0.5, 0.2, 0.2]  # inside the bus, with a small volume
    proposals = np.array([bus, end, beside, flat], np.float32)
    boxes = np.array([[-30, 0, 1, 4, 2, 2, 0], bus], np.float32)
    best, positive = match_proposals(proposals, boxes)
    assert best[:2].tolist() == [1, 1] and positive.tolist() == [True, True, False, False]
    assert not match_proposals(proposals, boxes[:0])[1].any()


def test_rare_classes_are_selected_more_often_than_their_frequency() -> None:
    labelled = np.tile(np.array([0, 0, 0, 4, 2, 1.5, 0], np.float32), (40, 1))
    labelled[:, 0], labelled[:, 1] = 8 * np.arange(40) % 80 - 40, 6 * (np.arange(40) // 10)
    labels = np.array([0] * 36 + [3] * 4)
    elsewhere = labelled + np.array([0, -40, 0, 0, 0, 0, 0], np.float32)
    boxes, scores = np.concatenate([labelled, elsewhere]), np.linspace(0.9, 0.1, 80)
    rng, times = np.random.default_rng(0), np.zeros(80)
    for _ in range(200):
        selected = select_proposals(boxes, scores, labelled, labels, rng)
        assert len(selected) == len(set(selected.tolist())) == 32 and (selected < 40).sum() == 16
        times[selected] += 1
    assert times[36:40].mean() > 1.8 * times[:36].mean() > 0
    unlabelled = select_proposals(boxes[40:], scores[40:], labelled[:0], labels[:0], rng)
    assert len(unlabelled) == 32


def test_target_score_is_the_soft_iou_of_the_refined_box() -> None:
    boxes = np.array([[10, 0, 1, 4, 2, 2, 0], [30, 5, 1.5, 12, 2.5, 3, 0]], np.float32)
    refined = boxes[[1, 0, 0, 0]].copy()
    refined[1, 0] += 4.0 / 3  # IoU 1/2, halfway from 0.25 to 0.75
    refined[2, 0] += 4.0  # no overlap
    refined[3, 6] = np.pi  # the same box with the opposite heading
    scores = target_scores(refined, boxes, np.array([0, 3]), 6)
    expected = np.zeros((4, 6))
    expected[0, 3], expected[1, 0], expected[3, 0] = 1.0, 0.5, 1.0
    np.testing.assert_allclose(scores, expected, atol=1e-5)
    assert not target_scores(refined, boxes[:0], np.zeros(0, int), 6).any()
