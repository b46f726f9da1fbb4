"""Samples of the fusion detector: classes of the segmentation."""

from __future__ import annotations

from multimodal_perception.training.detector.samples import SEGMENT_NAMES, segment_lookup_table


def test_segmentation_classes_distinguish_vehicles() -> None:
    table = segment_lookup_table(["road", "bus", "car", "van", "truck", "pedestrian", "pole"])
    expected = ["background", "bus", "car", "van", "truck", "pedestrian", "pole"]
    assert [SEGMENT_NAMES[k] for k in table] == expected
