"""Opens the image detector that belongs to a model."""

from __future__ import annotations

from multimodal_perception.detection.images.config import ImageDetectorConfig
from multimodal_perception.detection.images.imported import ARCHITECTURE, ImportedDetector
from multimodal_perception.detection.images.rgb_thermal import RgbThermalDetector
from multimodal_perception.runtime.card import load_card
from multimodal_perception.runtime.settings import RuntimeConfig


def open_image_detector(
    config: ImageDetectorConfig, runtime: RuntimeConfig | None = None
) -> ImportedDetector | RgbThermalDetector:
    """The detector for config.model, an imported or a shipped one. Raises UserError."""
    if load_card(config.model).architecture == ARCHITECTURE:
        return ImportedDetector(config, runtime)
    return RgbThermalDetector(config, runtime)
