"""The RGB-thermal image detector: shapes, box decoding, masks, and the shipped model."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from safetensors.torch import load

from multimodal_perception.networks.rgb_thermal_detection import (
    STRIDES,
    RgbThermalDetection,
    build,
    cell_centres,
)
from multimodal_perception.runtime.card import load_card
from multimodal_perception.runtime.onnxruntime import OnnxRuntimeBackend
from multimodal_perception.runtime.settings import RuntimeConfig


def images(rows: int = 64, columns: int = 128) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    visible = torch.rand(1, 3, rows, columns, generator=generator) * 2 - 1
    thermal = torch.rand(1, 1, rows, columns, generator=generator)
    return [visible, thermal, torch.ones(1, 1, rows, columns), torch.ones(1, 1, rows, columns)]


@pytest.fixture(scope="module")
def network() -> RgbThermalDetection:
    torch.manual_seed(0)
    return RgbThermalDetection().eval()


def test_outputs_cover_all_cells_of_three_strides(network: RgbThermalDetection) -> None:
    with torch.no_grad():
        scores, boxes = network(*images())
    assert scores.shape == (1, 8 * 16 + 4 * 8 + 2 * 4, 3) and boxes.shape == (1, 168, 4)
    assert 0.003 < float(scores.mean()) < 0.03  # near the initial score
    assert (boxes[..., 2:] > boxes[..., :2]).all()


def test_zero_head_output_centres_a_box_on_each_cell(network: RgbThermalDetection) -> None:
    head = build({}).head.eval()
    torch.nn.init.zeros_(head.boxes.weight)
    maps = [torch.zeros(1, 64, 16 // s, 32 // s) for s in (1, 2, 4)]
    with torch.no_grad():
        boxes = head(maps)[1][0]
    centres = (boxes[:, :2] + boxes[:, 2:]) / 2
    expected = torch.cat([s * cell_centres(128 // s, 256 // s) for s in STRIDES])
    torch.testing.assert_close(centres, expected)
    torch.testing.assert_close(boxes[0, 2:] - boxes[0, :2], torch.tensor([32.0, 32.0]))
    torch.testing.assert_close(boxes[-1, 2:] - boxes[-1, :2], torch.tensor([128.0, 128.0]))


@pytest.mark.parametrize("missing", [0, 1])
def test_values_of_a_missing_image_have_no_effect(
    network: RgbThermalDetection, missing: int
) -> None:
    inputs = images()
    inputs[2 + missing].zero_()
    with torch.no_grad():
        expected = network(*inputs)
        for value in (float("nan"), 1e6):
            inputs[missing].fill_(value)
            for a, b in zip(network(*inputs), expected, strict=True):
                torch.testing.assert_close(a, b, rtol=0, atol=0)


@pytest.fixture(scope="module")
def shipped() -> RgbThermalDetection:
    card = load_card("image_detector")
    network = build(card.settings)
    network.load_state_dict(card.to_module_names(load(card.read_file("weights"))))
    return network.eval()


def test_both_images_affect_the_output(shipped: RgbThermalDetection) -> None:
    inputs = images()
    with torch.no_grad():
        expected = shipped.predict_logits(*inputs)[0]
        for i in (0, 1):
            changed = [t.clone() for t in inputs]
            changed[i] = changed[i].flip(-1)
            assert not torch.allclose(shipped.predict_logits(*changed)[0], expected, atol=0.01)


def test_backbone_statistics_are_frozen_in_training() -> None:
    network = RgbThermalDetection()
    before = {k: v.clone() for k, v in network.streams.state_dict().items()}
    network.train()(*images())
    assert all(torch.equal(v, before[k]) for k, v in network.streams.state_dict().items())
    assert network.head.training


def test_shipped_onnx_agrees_with_shipped_weights(shipped: RgbThermalDetection) -> None:
    card = load_card("image_detector")
    inputs = images(*card.inputs["visible"].shape[-2:])
    inputs[3][..., :200] = 0.0
    with torch.no_grad():
        scores, boxes = (t.numpy() for t in shipped(*inputs))
    onnx_card = card.with_onnx_names()
    arrays = dict(zip(onnx_card.inputs, (t.numpy() for t in inputs), strict=True))
    outputs = OnnxRuntimeBackend(onnx_card, RuntimeConfig(device="cpu")).infer(arrays)
    # Both are stored in half precision, the ONNX with folded batch normalisation.
    np.testing.assert_allclose(outputs["scores"], scores, atol=0.02)
    np.testing.assert_allclose(outputs["boxes"], boxes, rtol=0.05, atol=1.0)
    assert sum(p.numel() for p in shipped.parameters()) == card.figures["parameters"]
