"""The stages of the training of the BEV fusion detector."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from multimodal_perception.training.bev_fusion.calibration import calibrate
from multimodal_perception.training.bev_fusion.configuration import BevFusionTraining
from multimodal_perception.training.bev_fusion.train_images import train_image_encoders
from multimodal_perception.training.bev_fusion.train_refinement import train_refinement
from multimodal_perception.training.bev_fusion.train_stage1 import train_stage1


def train_stage(
    config: BevFusionTraining, data: Path, out: Path, start: Sequence[Path] = ()
) -> None:
    """Train the stage of a configuration, or resume the training in `out`.

    data: folder of samples. start: weights of earlier stages. Raises UserError.
    """
    if config.stage == "image_encoder":
        train_image_encoders(config, data, out)
    elif config.stage == "refinement":
        train_refinement(config, data, out, start)
    elif config.stage == "calibration":
        calibrate(config, data, out, start)
    else:
        train_stage1(config, data, out, start)
