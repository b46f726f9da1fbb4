"""Writes a trained image detector as a model folder: ONNX, safetensors and card."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors.torch import save_file

from multimodal_perception.configuration import UserError
from multimodal_perception.detection.images.rgb_thermal import OUTPUTS
from multimodal_perception.images.rgb_thermal_inputs import INPUTS
from multimodal_perception.networks.efficientnet_lite import PIXEL_MEAN, PIXEL_STD
from multimodal_perception.networks.rgb_thermal_detection import (
    CLASSES,
    STRIDES,
    RgbThermalDetection,
)
from multimodal_perception.runtime.card import ModelCard, TensorSpec, Training, write_card
from multimodal_perception.training.checkpoint import load_weights
from multimodal_perception.training.image_detector.dataset import INPUT_ROWS, INPUT_WIDTH
from multimodal_perception.training.segmentation.export import (
    export_half_precision,
    to_stored_precision,
)

# Thresholds of classes whose scores are lower than those of vehicles at the same precision, see
# detection.images.score_thresholds. Chosen on the 31 labelled CamVid images of the figure `camvid` of
# the card; checked on the PandaSet frames 0, 12, 24 and 36 of scene 002.
SCORE_THRESHOLDS = {"person": 0.25}


def export_image_detector(
    weights: Path,
    out: Path,
    training: Training | None,
    figures: Mapping[str, Any] | None = None,
    notes: str = "",
) -> ModelCard:
    """Write out/model.onnx, out/model.safetensors and out/card.yaml from trained weights. Returns
    the card.

    Large weights are stored in half precision and converted to single precision at load. In the
    ONNX file batch normalisation is folded into the convolutions before the conversion. Raises
    UserError for weights of another network.
    """
    network = RgbThermalDetection()
    load_weights(network, weights)
    network.eval()
    state = {n: to_stored_precision(t) for n, t in network.state_dict().items()}
    network.load_state_dict(state)  # so that the ONNX file has the stored weights
    shapes: dict[str, tuple[int, ...]] = {
        n: (1, 3 if n == "visible" else 1, INPUT_ROWS, INPUT_WIDTH) for n in INPUTS
    }
    cells = sum((INPUT_ROWS // s) * (INPUT_WIDTH // s) for s in STRIDES)
    sizes = (1, cells, len(CLASSES)), (1, cells, 4)
    card = ModelCard(
        name=out.name,
        architecture="rgb_thermal_detection",
        inputs={name: TensorSpec(shape) for name, shape in shapes.items()},
        outputs={name: TensorSpec(size) for name, size in zip(OUTPUTS, sizes, strict=True)},
        licence="Apache-2.0",
        task="Detects vehicles, people and cyclists as 2D boxes in a visible and a thermal image.",
        settings={"classes": len(CLASSES), "score_thresholds": dict(SCORE_THRESHOLDS)},
        classes=CLASSES,
        normalisation={
            "visible": {"mean": PIXEL_MEAN, "std": PIXEL_STD, "order": "RGB"},
            "thermal": "thermal: percentiles 1 and 99 to 0 and 1",
        },
        training=training,
        figures={
            "parameters": sum(p.numel() for p in network.parameters()),
            **(figures or {}),
        },
        notes=notes,
    )
    try:
        out.mkdir(parents=True, exist_ok=True)
        save_file(state, str(out / "model.safetensors"))
        (out / "model.onnx").write_bytes(export_half_precision(network, shapes, OUTPUTS))
    except OSError as error:
        raise UserError(f"{out}: {error.strerror or error}") from error
    return write_card(out, card, "model.onnx", "model.safetensors")
