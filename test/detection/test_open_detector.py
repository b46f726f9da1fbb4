"""Detectors by name."""

from __future__ import annotations

import pytest

from multimodal_perception.configuration import UserError
from multimodal_perception.detection.open_detector import detector_names, open_detector
from multimodal_perception.pipeline import PipelineConfig


def test_the_names_are_the_configurations() -> None:
    assert PipelineConfig().detector in detector_names()
    assert open_detector("geometric").name == "geometric"


@pytest.mark.parametrize("name", ["", "magic", "Geometric"])
def test_another_name_is_told_with_those_that_there_are(name: str) -> None:
    with pytest.raises(UserError, match="allowed: auto, geometric, fusion"):
        open_detector(name)
