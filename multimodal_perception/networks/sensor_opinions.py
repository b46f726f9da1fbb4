"""Opinions of each sensor about boxes, as evidence of groups of classes.

One small network for each modality, as the view-specific networks of "Trusted multi-view classification"
(Han et al. 2021, section 3.2). Its outputs are evidence e_k >= 0; the Dirichlet distribution has the
parameters e_k + 1.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from multimodal_perception.box_evidence import GROUPS
from multimodal_perception.configuration import build
from multimodal_perception.detection.bev_fusion.opinion_features import (
    OpinionNetworkConfig,
    opinion_inputs,
)

# Normalised features are limited to this magnitude, so that unusual values do not cause certain
# opinions.
MAX_FEATURE = 6.0
# Smallest standard deviation of a feature, for features that do not vary.
MIN_STD = 1e-3


class SensorOpinions(nn.Module):
    """Network from the features of boxes by modality to the evidence of each of GROUPS."""

    def __init__(self, config: OpinionNetworkConfig) -> None:
        super().__init__()
        self.config = config
        shapes = opinion_inputs(config, 1)
        self.modalities = tuple(shapes)
        self.heads = nn.ModuleDict()
        for modality, shape in shapes.items():
            features = shape[-1]
            self.register_buffer(f"mean_{modality}", torch.zeros(features))
            self.register_buffer(f"std_{modality}", torch.ones(features))
            self.heads[modality] = nn.Sequential(
                nn.Linear(features, config.hidden),
                nn.ReLU(),
                nn.Dropout(config.dropout),
                nn.Linear(config.hidden, config.hidden),
                nn.ReLU(),
                nn.Dropout(config.dropout),
                nn.Linear(config.hidden, len(GROUPS)),
            )

    def set_normalisation(self, modality: str, features: Tensor) -> None:
        """Normalise a modality's inputs with the mean and standard deviation of features (M, F) float32.

        With fewer than two rows, the normalisation does not change.
        """
        if len(features) < 2:
            return
        getattr(self, f"mean_{modality}").copy_(features.mean(0))
        getattr(self, f"std_{modality}").copy_(features.std(0).clamp(min=MIN_STD))

    def forward(self, *features: Tensor) -> Tensor:
        """Evidence (B, N, slots, K) float32 of N boxes, 0 to config.max_evidence.

        features: by modality in the order of opinion_inputs, (B, N, slots of the modality, F) float32.
        Slots are those of opinion_features.SLOTS.
        """
        evidence = []
        for modality, values in zip(self.modalities, features, strict=True):
            mean, std = getattr(self, f"mean_{modality}"), getattr(self, f"std_{modality}")
            normalised = ((values - mean) / std).clamp(-MAX_FEATURE, MAX_FEATURE)
            evidence.append(F.softplus(self.heads[modality](normalised)))
        return torch.cat(evidence, 2).clamp(max=self.config.max_evidence)


def build_sensor_opinions(settings: Mapping[str, Any]) -> SensorOpinions:
    """Build the network from a card's settings, without weights. Raises ConfigurationError."""
    values = settings.get("network", {})
    return SensorOpinions(build(OpinionNetworkConfig, values, "sensor_opinions", "network")).eval()
