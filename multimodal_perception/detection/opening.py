"""Detectors by name."""

from __future__ import annotations

import dataclasses
import typing

from multimodal_perception.configuration import UserError
from multimodal_perception.pipeline import Detector, PipelineConfig, build_pipeline


def detector_names() -> tuple[str, ...]:
    """What PipelineConfig.detector can be."""
    return typing.get_args(typing.get_type_hints(PipelineConfig)["detector"])


def open_detector(name: str, config: PipelineConfig | None = None) -> Detector:
    """The detector of a name, warmed up. Raises UserError for one that there is not."""
    if name not in detector_names():
        raise UserError(f"detector {name!r}: allowed: {', '.join(detector_names())}")
    config = config or PipelineConfig()
    chosen = dataclasses.replace(config, detector=name, occupancy="none")  # type: ignore[arg-type]
    return build_pipeline(chosen).detector
