"""The PyTorch backend: the same results as ONNX Runtime, and errors for invalid models."""

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
from safetensors.torch import load, save_file

from multimodal_perception.runtime import architectures
from multimodal_perception.runtime.architectures import ARCHITECTURES, Architecture
from multimodal_perception.runtime.card import (
    ModelCard,
    ModelIntegrityError,
    TensorSpec,
    load_card,
    shipped_cards,
    write_card,
)
from multimodal_perception.runtime.engine import EngineError
from multimodal_perception.runtime.open_model import open_engine, open_single_engine
from multimodal_perception.runtime.settings import RuntimeConfig


class Small(torch.nn.Module):
    """Samples image features at given positions and returns the five highest."""

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
    """The network's card with an ONNX and a weights file."""
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


def test_torch_agrees_with_onnxruntime_and_replaces_it(card: ModelCard) -> None:
    with_torch = open_single_engine("torch", card, RuntimeConfig(threads=1))
    with_onnx = open_single_engine("onnxruntime", card, RuntimeConfig(threads=1))
    for seed in range(3):
        a, b = with_torch.run(frame(seed)), with_onnx.run(frame(seed))
        np.testing.assert_allclose(a["scores"], b["scores"], rtol=1e-4, atol=1e-6)
        np.testing.assert_array_equal(a["indices"], b["indices"])
    order = RuntimeConfig(order=("tensorrt", "torch"), threads=1)
    np.testing.assert_array_equal(
        open_engine(card, order).run(frame())["scores"], with_torch.run(frame())["scores"]
    )


def test_no_engine_runs_a_model_with_a_modified_file(
    card: ModelCard, caplog: pytest.LogCaptureFixture
) -> None:
    """Another engine, which does not read the modified file, must not hide the modification."""
    assert card.path is not None
    (card.path.parent / "model.onnx").write_bytes(b"tampered")
    with pytest.raises(ModelIntegrityError, match="its SHA-256 is"):
        open_engine(card, RuntimeConfig(order=("torch",), threads=1))
    assert [r.levelname for r in caplog.records] == ["ERROR"]


def test_a_file_that_is_modified_later_is_not_used_as_fallback(
    card: ModelCard, caplog: pytest.LogCaptureFixture
) -> None:
    assert card.path is not None
    engine = open_engine(card, RuntimeConfig(order=("torch", "onnxruntime"), threads=1))
    (card.path.parent / "model.onnx").write_bytes(b"tampered")
    engine._engines["torch"] = Failing()  # type: ignore[assignment]
    with pytest.raises(EngineError, match="out of memory"):
        engine.run(frame())
    assert "SHA-256" in engine.diagnostics()["unavailable.onnxruntime"]
    assert engine.degraded and any(r.levelname == "ERROR" for r in caplog.records)


class Failing:
    def run(self, arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        raise EngineError("out of memory")


def test_mismatched_or_damaged_weights_raise(card: ModelCard) -> None:
    assert card.path is not None
    folder = card.path.parent
    save_file(Small(9).state_dict(), folder / "model.safetensors")
    other = write_card(folder, card, weights="model.safetensors")
    with pytest.raises(EngineError, match="weights do not match the network"):
        open_single_engine("torch", other, RuntimeConfig())
    (folder / "model.safetensors").write_bytes(b"\xff" * 64)
    other = write_card(folder, card, weights="model.safetensors")
    with pytest.raises(EngineError, match="weights do not match the network"):
        open_single_engine("torch", other, RuntimeConfig())
    with pytest.raises(ModelIntegrityError, match="its SHA-256 is"):
        open_single_engine("torch", card, RuntimeConfig())


def test_unknown_architecture_is_not_imported(card: ModelCard) -> None:
    other = dataclasses.replace(card, architecture="os:system")
    with pytest.raises(
        EngineError, match=r"architecture: unknown value 'os:system'; allowed: .*small"
    ):
        open_single_engine("torch", other, RuntimeConfig())


def test_missing_cuda_gpu_raises(card: ModelCard) -> None:
    if torch.cuda.is_available():
        pytest.skip("a GPU is available")
    with pytest.raises(EngineError, match="no CUDA GPU"):
        open_single_engine("torch", card, RuntimeConfig(device="cuda"))


def test_every_architecture_can_be_resolved() -> None:
    for name, architecture in ARCHITECTURES.items():
        card = ModelCard("m", name, {"x": TensorSpec(())}, {"y": TensorSpec(())}, "MIT")
        for function in ("build", "frame_inputs"):
            if getattr(architecture, function):
                assert callable(architectures.resolve(card, function))


@pytest.mark.parametrize("path", shipped_cards(), ids=lambda p: p.parent.name)
def test_shipped_weights_match_their_architecture(path: Path) -> None:
    card = load_card(path)
    module = architectures.resolve(card, "build")(card.settings)
    module.load_state_dict(card.to_module_names(load(card.read_file("weights"))))
