"""Detectors by name."""

from __future__ import annotations

import dataclasses
import typing
from pathlib import Path

from multimodal_perception.configuration import UserError
from multimodal_perception.pipeline import Detector, PipelineConfig, build_pipeline
from multimodal_perception.runtime.card import CARD, shipped_cards


def detector_names() -> tuple[str, ...]:
    """What PipelineConfig.detector can be."""
    return typing.get_args(typing.get_type_hints(PipelineConfig)["detector"])


def open_detector(name: str, config: PipelineConfig | None = None) -> Detector:
    """The detector of a name, warmed up: one that PipelineConfig knows, "shipped" for the fusion
    detector with the shipped model, or a model's name or folder, which +NAME gives another refinement
    ("detector+none" has none). Raises UserError."""
    config = config or PipelineConfig()
    name, plus, refinement = name.partition("+")
    if plus:
        fusion = dataclasses.replace(config.fusion, refinement=refinement)
        config = dataclasses.replace(config, fusion=fusion)
    if name == "shipped":
        name = "fusion"
    elif name not in detector_names():
        if not _is_model(name):
            allowed = ", ".join((*detector_names(), "shipped"))
            raise UserError(f"detector {name!r}: allowed: {allowed}, a model's name or folder")
        config = dataclasses.replace(config, fusion=dataclasses.replace(config.fusion, model=name))
        name = "fusion"
    chosen = dataclasses.replace(config, detector=name, occupancy="none")  # type: ignore[arg-type]
    return build_pipeline(chosen).detector


def _is_model(name: str) -> bool:
    return (Path(name) / CARD).is_file() or name in {p.parent.name for p in shipped_cards()}
