"""Targets of the refinement of the fusion detector."""

from __future__ import annotations

import numpy as np

from multimodal_perception.training.detector.refinement_targets import refinement_targets


def test_positive_proposals_have_the_box_and_the_label_of_their_object() -> None:
    bus = [20.0, 1.0, 1.5, 12.0, 2.5, 3.0, 0.2]
    end = [16.5, 0.3, 1.5, 4.8, 2.4, 2.9, 0.2]
    beside = [20.0, 3.4, 1.5, 4.8, 2.4, 2.9, 0.2]
    flat = [20.0, 1.0, 0.1, 1.0, 0.5, 0.2, 0.2]
    proposals = np.array([bus, end, beside, flat], np.float32)
    boxes = np.array([[-30, 0, 1, 4, 2, 2, 0], bus], np.float32)
    target = refinement_targets(proposals, boxes, np.array([1, 3]))
    assert target["target_labels"].tolist() == [3.0, 3.0, 0.0, 0.0]
    np.testing.assert_array_equal(target["matched_boxes"], [boxes[1], boxes[1], *proposals[2:]])
    assert target["positive_mask"].tolist() == [1.0, 1.0, 0.0, 0.0]
