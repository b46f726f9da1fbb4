"""PyTorch from safetensors, beside ONNX Runtime on the exported network; and what it refuses."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from multimodal_perception.runtime import architectures
from multimodal_perception.runtime.architectures import ARCHITECTURES, Architecture
from multimodal_perception.runtime.card import ModelCard, TensorSpec, write_card
from multimodal_perception.runtime.engine import EngineError
from multimodal_perception.runtime.open_model import open_engine, open_one
from multimodal_perception.runtime.settings import RuntimeConfig


class Small(torch.nn.Module):
    """Features of an image sampled at given places, best first."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = torch.nn.Conv2d(3, channels, 3, padding=1)
        self.second = torch.nn.Conv2d(channels, 1, 1)

    def forward(self, image: torch.Tensor, grid: torch.Tensor) -> tuple[torch.Tensor, ...]:
        features = self.second(torch.relu(self.first(image)))
        sampled = torch.nn.functional.grid_sample(features, grid, align_corners=False)
        scores, indices = sampled.flatten(1).topk(5)
        return scores, indices


def build(settings: Mapping[str, Any]) -> torch.nn.Module:
    return Small(**settings)


@pytest.fixture
def card(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModelCard:
    """The network with both its files."""
    monkeypatch.setitem(ARCHITECTURES, "small", Architecture("small_module:build"))
    monkeypatch.setitem(sys.modules, "small_module", SimpleNamespace(build=build))
    torch.manual_seed(0)
    module = Small(8).eval()
    save_file(module.state_dict(), tmp_path / "model.safetensors")
    inputs = {"image": TensorSpec((1, 3, 16, 24)), "grid": TensorSpec((1, 8, 8, 2))}
    outputs = {"scores": TensorSpec((1, 5)), "indices": TensorSpec((1, 5), "int64")}
    torch.onnx.export(
        module,
        tuple(torch.zeros(s.shape) for s in inputs.values()),
        tmp_path / "model.onnx",
        input_names=list(inputs),
        output_names=list(outputs),
        opset_version=18,
        dynamo=True,
        external_data=False,
        verbose=False,
    )
    card = ModelCard("small", "small", inputs, outputs, "MIT", settings={"channels": 8})
    return write_card(tmp_path, card, onnx="model.onnx", weights="model.safetensors")


def frame(seed: int = 0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {
        "image": rng.normal(0, 1, (1, 3, 16, 24)).astype(np.float32),
        "grid": rng.uniform(-1, 1, (1, 8, 8, 2)).astype(np.float32),
    }


def test_both_engines_agree_and_the_second_takes_over(card: ModelCard) -> None:
    ours = open_one("torch", card, RuntimeConfig(threads=1))
    theirs = open_one("onnxruntime", card, RuntimeConfig(threads=1))
    for seed in range(3):
        a, b = ours.run(frame(seed)), theirs.run(frame(seed))
        np.testing.assert_allclose(a["scores"], b["scores"], rtol=1e-4, atol=1e-6)
        np.testing.assert_array_equal(a["indices"], b["indices"])
    assert card.path is not None
    (card.path.parent / "model.onnx").write_bytes(b"tampered")
    engine = open_engine(card, RuntimeConfig(order=("onnxruntime", "torch"), threads=1))
    assert engine.name == "torch" and "SHA-256" in engine.state["not_used.onnxruntime"]
    np.testing.assert_array_equal(engine.run(frame())["scores"], ours.run(frame())["scores"])


def test_weights_that_do_not_fit_or_are_none_are_refused(card: ModelCard) -> None:
    assert card.path is not None
    folder = card.path.parent
    save_file(Small(9).state_dict(), folder / "model.safetensors")
    other = write_card(folder, card, weights="model.safetensors")
    with pytest.raises(EngineError, match="weights do not fit"):
        open_one("torch", other, RuntimeConfig())
    (folder / "model.safetensors").write_bytes(b"\xff" * 64)
    other = write_card(folder, card, weights="model.safetensors")
    with pytest.raises(EngineError, match="weights do not fit"):
        open_one("torch", other, RuntimeConfig())
    with pytest.raises(EngineError, match="its SHA-256 is"):
        open_one("torch", card, RuntimeConfig())


def test_an_architecture_that_is_not_on_the_list_is_never_imported(card: ModelCard) -> None:
    other = dataclasses.replace(card, architecture="os:system")
    with pytest.raises(
        EngineError, match=r"architecture: 'os:system' is unknown; allowed: .*small"
    ):
        open_one("torch", other, RuntimeConfig())


def test_cuda_that_is_not_there_is_an_error(card: ModelCard) -> None:
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    with pytest.raises(EngineError, match="no CUDA GPU"):
        open_one("torch", card, RuntimeConfig(device="cuda"))


def test_every_architecture_on_the_list_can_be_resolved() -> None:
    for name, architecture in ARCHITECTURES.items():
        card = ModelCard("m", name, {"x": TensorSpec(())}, {"y": TensorSpec(())}, "MIT")
        for what in ("build", "frame_inputs"):
            if getattr(architecture, what):
                assert callable(architectures.resolve(card, what))
