"""Which fusion detector a model card belongs to."""

from __future__ import annotations

from multimodal_perception.detection.bev_fusion.detector import BevFusionDetector
from multimodal_perception.detection.bev_fusion.fusion_config import FusionConfig
from multimodal_perception.detection.bev_fusion.model_cards import is_bev_fusion
from multimodal_perception.detection.fusion.detector import FusionDetector
from multimodal_perception.detection.geometric.detector import GeometricDetector
from multimodal_perception.runtime.settings import RuntimeConfig

AnyFusionDetector = FusionDetector | BevFusionDetector


def open_fusion_detector(
    config: FusionConfig | None = None,
    runtime: RuntimeConfig | None = None,
    fallback: GeometricDetector | None = None,
) -> AnyFusionDetector:
    """The fusion detector of config.model: selected by the architecture in the model card.

    Raises UserError for a card that cannot be used, or if no engine can run it.
    """
    config = config or FusionConfig()
    kind = BevFusionDetector if is_bev_fusion(config.model) else FusionDetector
    return kind(config, runtime, fallback)
