"""The stages of the detector's training."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from torch import nn

from multimodal_perception.training.detector.large_vehicle_head import train_large_vehicle_head
from multimodal_perception.training.detector.train import (
    DetectorTraining,
    train_proposals,
    train_refinement,
)


def train_stage(
    config: DetectorTraining,
    data: Path,
    out: Path,
    start: Sequence[Path] = (),
    proposals: Path | None = None,
) -> nn.Module:
    """Train the stage of a configuration, or resume the training in `out`.

    data: folder of samples. start: initial weights. proposals: weights of the trained proposal network,
    required by all stages but the first. Raises UserError.
    """
    if config.stage == "proposals":
        return train_proposals(config, data, out, start)
    assert proposals is not None
    if config.stage == "refinement":
        return train_refinement(config, data, out, proposals, start)
    return train_large_vehicle_head(config, data, out, proposals, start)
