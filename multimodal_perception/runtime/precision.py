"""The ONNX of a card at another precision."""

from __future__ import annotations

from multimodal_perception.runtime.card import ModelCard
from multimodal_perception.runtime.settings import RuntimeConfig


def model_at(card: ModelCard, config: RuntimeConfig) -> bytes:
    return card.read_file("onnx")


def source_digest(card: ModelCard, config: RuntimeConfig) -> str:
    assert card.onnx is not None
    return card.onnx.sha256
