"""The RGB-thermal segmentation network: shapes, masks, and the shipped model."""

import numpy as np
import pytest
import torch
from safetensors.torch import load

from multimodal_perception.networks.monte_carlo_dropout import MonteCarloDropout
from multimodal_perception.networks.rgb_thermal_segmentation import (
    FUSIONS,
    RgbThermalSegmentation,
    build,
)
from multimodal_perception.runtime.card import load_card
from multimodal_perception.runtime.onnxruntime import OnnxRuntimeBackend
from multimodal_perception.runtime.settings import RuntimeConfig


def images(rows: int = 64, columns: int = 96) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    visible = torch.rand(1, 3, rows, columns, generator=generator) * 2 - 1
    thermal = torch.rand(1, 1, rows, columns, generator=generator)
    return [visible, thermal, torch.ones(1, 1, rows, columns), torch.ones(1, 1, rows, columns)]


@pytest.fixture(scope="module")
def network() -> RgbThermalSegmentation:
    torch.manual_seed(0)
    return RgbThermalSegmentation(10).eval()


@pytest.mark.parametrize("fusion", FUSIONS)
def test_logits_have_half_the_image_size(fusion: str) -> None:
    with torch.no_grad():
        out = RgbThermalSegmentation(7, fusion).eval()(*images())
    assert out.shape == (1, 7, 32, 48) and torch.isfinite(out).all()


@pytest.mark.parametrize("missing", [0, 1])
def test_values_of_a_missing_image_have_no_effect(
    network: RgbThermalSegmentation, missing: int
) -> None:
    inputs = images()
    inputs[2 + missing].zero_()
    with torch.no_grad():
        expected = network(*inputs)
        for value in (float("nan"), 1e6):
            inputs[missing].fill_(value)
            torch.testing.assert_close(network(*inputs), expected, rtol=0, atol=0)


def test_both_images_affect_the_output(network: RgbThermalSegmentation) -> None:
    inputs = images()
    with torch.no_grad():
        expected = network(*inputs)
        for i in (0, 1):
            changed = [t.clone() for t in inputs]
            changed[i] = changed[i].flip(-1)
            assert not torch.allclose(network(*changed), expected, atol=1e-3)


def test_unknown_fusion_raises() -> None:
    with pytest.raises(ValueError, match=r"fusion.*cmx"):
        build({"fusion": "magic"})


def test_shipped_onnx_agrees_with_shipped_weights() -> None:
    card = load_card("segmentation")
    network = build(card.settings)
    network.load_state_dict(card.to_module_names(load(card.read_file("weights"))))
    inputs = images(*card.inputs["visible"].shape[-2:])
    inputs[3][..., :100] = 0.0
    with torch.no_grad():
        expected = network.eval()(*inputs).numpy()
    config = RuntimeConfig(device="cpu")
    onnx_card = card.with_onnx_names()
    arrays = dict(zip(onnx_card.inputs, (t.numpy() for t in inputs), strict=True))
    outputs = OnnxRuntimeBackend(onnx_card, config).infer(arrays)["logits"]
    # Both are stored in half precision, the ONNX with folded batch normalisation.
    np.testing.assert_allclose(outputs, expected, atol=0.1)
    assert (outputs.argmax(1) == expected.argmax(1)).mean() > 0.99
    assert sum(p.numel() for p in network.parameters()) == card.figures["parameters"]


def test_monte_carlo_dropout_is_the_mean_probability_of_passes_with_dropped_channels(
    network: RgbThermalSegmentation,
) -> None:
    with torch.no_grad():
        expected = network(*images()).softmax(1)
        without = MonteCarloDropout(network, 3, 0.0).eval()(*images()).exp()
        torch.testing.assert_close(without, expected, atol=1e-6, rtol=1e-4)
        dropped = MonteCarloDropout(network, 2, 0.5, seed=1).eval()
        mean = dropped(*images()).exp()
        maps, stems = network.encode(*images())
        passes = []
        for n in range(2):
            scales = [dropped.get_buffer(f"scale_{k}")[n] for k in range(len(maps))]
            assert all(set(s.unique().tolist()) <= {0.0, 2.0} for s in scales)
            parts = [m * s for m, s in zip(maps, scales, strict=True)]
            passes.append(network.decoder(parts, stems).softmax(1))
        torch.testing.assert_close(mean, (passes[0] + passes[1]) / 2, atol=1e-6, rtol=1e-4)
        torch.testing.assert_close(mean.sum(1), torch.ones(1, 32, 48))
        assert not torch.equal(passes[0], passes[1])
        again = MonteCarloDropout(network, 2, 0.5, seed=1).eval()(*images()).exp()
        assert torch.equal(again, mean)
        other = MonteCarloDropout(network, 2, 0.5, seed=2).eval()(*images()).exp()
        assert not torch.equal(other, mean)


@pytest.mark.parametrize(("samples", "rate"), [(0, 0.1), (2, 1.0), (2, -0.1)])
def test_wrong_settings_of_monte_carlo_dropout_are_errors(
    network: RgbThermalSegmentation, samples: int, rate: float
) -> None:
    with pytest.raises(ValueError, match="are allowed"):
        MonteCarloDropout(network, samples, rate)
