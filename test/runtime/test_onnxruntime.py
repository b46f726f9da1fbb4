"""The ONNX Runtime backend: the same results as torch, and errors for invalid models."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
import torch.nn.functional as F
from onnx import numpy_helper

from multimodal_perception.configuration import UserError
from multimodal_perception.runtime.card import ModelIntegrityError, TensorSpec
from multimodal_perception.runtime.engine import CheckedEngine, EngineError
from multimodal_perception.runtime.onnxruntime import OnnxRuntimeBackend, choose_providers
from multimodal_perception.runtime.open_model import open_single_engine
from multimodal_perception.runtime.settings import RuntimeConfig
from test.runtime import small_models as models

CPU = RuntimeConfig(device="cpu", threads=1)


def run_with_torch(
    model: onnx.ModelProto, arrays: dict[str, np.ndarray]
) -> tuple[np.ndarray, np.ndarray]:
    """The outputs of scatter_model, computed with torch operators."""
    w = {i.name: torch.tensor(numpy_helper.to_array(i)) for i in model.graph.initializer}
    image, grid, cells = (torch.from_numpy(arrays[n]) for n in ("image", "grid", "cells"))
    features = F.conv2d(F.relu(F.conv2d(image, w["w1"], w["b1"], padding=1)), w["w2"], padding=1)
    values = F.grid_sample(features, grid, align_corners=False).reshape(1, 4, 64)
    scores, indices = torch.zeros(1, 4, 64).scatter(2, cells, values).sum(1).topk(5)
    return scores.numpy(), indices.numpy()


def test_results_match_torch(tmp_path: Path) -> None:
    model = models.scatter_model()
    card = models.save(tmp_path / "m", model)
    engine = open_single_engine("onnxruntime", card, CPU)
    assert (engine.name, engine.device) == ("onnxruntime", "cpu")
    for seed in range(3):
        arrays = models.scatter_arrays(seed)
        scores, indices = run_with_torch(model, arrays)
        result = engine.run(arrays)
        assert list(result) == ["scores", "indices"]
        np.testing.assert_allclose(result["scores"], scores, rtol=1e-4, atol=1e-5)
        np.testing.assert_array_equal(result["indices"], indices)
    # Warm-up runs are not timed.
    assert engine.timings.summary()["runs"] == 3 and engine.timings.summary()["p95_ms"] > 0


@pytest.mark.parametrize(
    ("specs", "words"),
    [
        ({"inputs": {**models.INPUTS, "image": TensorSpec((1, 3, 16, 32))}}, "input image of"),
        (
            {"inputs": {**models.INPUTS, "cells": TensorSpec((1, 4, 64), "int32")}},
            "input cells of the ONNX model is .* int64, .*card.yaml it is .* int32",
        ),
        ({"outputs": {"scores": models.OUTPUTS["scores"]}}, "outputs of the ONNX model are"),
    ],
)
def test_onnx_that_differs_from_its_card_raises(specs: dict, words: str, tmp_path: Path) -> None:
    card = models.save(tmp_path / "m", models.scatter_model(), **specs)
    with pytest.raises(EngineError, match=words):
        OnnxRuntimeBackend(card, CPU)


def test_modified_or_missing_file_raises(tmp_path: Path) -> None:
    card = models.save(tmp_path / "m", models.scatter_model())
    path = tmp_path / "m" / "model.onnx"
    path.write_bytes(b"tampered")
    with pytest.raises(UserError, match="its SHA-256 is"):
        OnnxRuntimeBackend(card, CPU)
    with pytest.raises(ModelIntegrityError, match="its SHA-256 is"):
        open_single_engine("onnxruntime", card, CPU)
    path.unlink()
    with pytest.raises(EngineError, match="No such file"):
        open_single_engine("onnxruntime", card, CPU)


def test_missing_cuda_provider_raises(tmp_path: Path) -> None:
    card = models.save(tmp_path / "m", models.scatter_model())
    with pytest.raises(EngineError, match="no working CUDA provider"):
        OnnxRuntimeBackend(card, RuntimeConfig(device="cuda"))


def test_providers_follow_the_configuration() -> None:
    every = ["TensorrtExecutionProvider", "CUDAExecutionProvider", "CPUExecutionProvider"]

    def names(config: RuntimeConfig) -> list[str]:
        return [p if isinstance(p, str) else p[0] for p in choose_providers(every, config)]

    assert names(RuntimeConfig()) == every
    assert names(RuntimeConfig(order=("onnxruntime",))) == every[1:]
    assert names(RuntimeConfig(device="cpu")) == every[2:]


def test_nan_in_an_input_raises(tmp_path: Path) -> None:
    card = models.save(tmp_path / "m", models.scatter_model())
    engine = CheckedEngine(OnnxRuntimeBackend(card, CPU), card.inputs, card.outputs)
    arrays = models.scatter_arrays()
    arrays["image"][0, 1, 3, 4] = np.nan
    with pytest.raises(EngineError, match="input image: 1 values are not finite"):
        engine.run(arrays)
