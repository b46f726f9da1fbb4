"""Options of evaluations: sensors that are left out, and the image detector."""

from __future__ import annotations

import argparse
from collections.abc import Collection
from dataclasses import replace

from multimodal_perception.configuration import UserError
from multimodal_perception.detection.images import imported
from multimodal_perception.frame import Modality
from multimodal_perception.pipeline_builder import (
    IMAGE_DETECTORS,
    PipelineConfig,
    select_image_detector,
)
from multimodal_perception.rig import Rig
from multimodal_perception.runtime.card import load_card


def add_sensor_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--without",
        nargs="+",
        default=[],
        choices=[m.value for m in Modality],
        metavar="MODALITY",
        help="leave out the readings of lidar, camera, thermal or ultrasonic; the labels stay the same",
    )
    parser.add_argument(
        "--image-detector",
        help=f"{', '.join(IMAGE_DETECTORS)}, a plug-in, or the name or folder of a model (default: as "
        "in --pipeline)",
    )
    parser.add_argument(
        "--tiles",
        nargs=2,
        type=int,
        metavar=("COLUMNS", "ROWS"),
        help="tiles of the image detector (default: as in --pipeline)",
    )


def remaining_modalities(without: Collection[str]) -> tuple[Modality, ...]:
    """The modalities that are not left out. Raises UserError if none remains."""
    remaining = tuple(m for m in Modality if m.value not in without)
    if not remaining:
        raise UserError("--without: at least one modality must remain")
    return remaining


def reduced_rig(rig: Rig, modalities: Collection[Modality]) -> Rig:
    """The rig with the sensors of these modalities only."""
    sensors = {name: s for name, s in rig.sensors.items() if s.modality in modalities}
    return replace(rig, sensors=sensors)


def with_image_detector(
    config: PipelineConfig, value: str | None, tiles: list[int] | None, rig: Rig
) -> PipelineConfig:
    """The configuration with the image detector of the options, `auto` resolved by the rig.

    value: name of an image detector, or the name or folder of a model. tiles: columns and rows. Raises
    UserError.
    """
    if value is not None:
        config = _with_value(config, value)
    if tiles is not None:
        try:
            shape = tiles[0], tiles[1]
            config = replace(
                config,
                rgb_thermal_detector=replace(config.rgb_thermal_detector, tiles=shape),
                imported_detector=replace(config.imported_detector, tiles=shape),
            )
        except ValueError as error:
            raise UserError(f"--tiles: {error}") from error
    return replace(config, image_detector=select_image_detector(config, rig))


def _with_value(config: PipelineConfig, value: str) -> PipelineConfig:
    try:
        return replace(config, image_detector=value)
    except ValueError as error:
        try:
            card = load_card(value)
        except UserError:
            raise UserError(f"{error}; or the name or folder of a model") from error
    if card.architecture == imported.ARCHITECTURE:
        own = replace(config.imported_detector, model=value)
        return replace(config, image_detector="imported", imported_detector=own)
    shipped = replace(config.rgb_thermal_detector, model=value)
    return replace(config, image_detector="rgb_thermal", rgb_thermal_detector=shipped)
