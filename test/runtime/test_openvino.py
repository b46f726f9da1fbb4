"""OpenVINO gives the outputs of ONNX Runtime; a missing device, library or a bad cache is no failure."""

from __future__ import annotations

import importlib
import logging
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from multimodal_perception.runtime import openvino
from multimodal_perception.runtime.card import ModelCard, TensorSpec
from multimodal_perception.runtime.engine import EngineError
from multimodal_perception.runtime.open_model import open_engine, open_single_engine
from multimodal_perception.runtime.openvino import OpenVINOBackend, channels_first
from multimodal_perception.runtime.settings import RuntimeConfig
from test.runtime import small_models as models

pytest.importorskip("openvino")


@pytest.fixture
def card(tmp_path: Path) -> ModelCard:
    return models.save(tmp_path / "scatter", models.scatter_model())


def config(tmp_path: Path, **values: Any) -> RuntimeConfig:
    return RuntimeConfig(
        **{"order": ("openvino",), "threads": 1, "cache": str(tmp_path / "cache"), **values}
    )


def test_outputs_equal_those_of_onnxruntime_also_from_the_cache(
    card: ModelCard, tmp_path: Path
) -> None:
    settings = config(tmp_path, precision="fp32")
    expected = open_single_engine("onnxruntime", card, settings).run(models.scatter_arrays())
    for _ in range(2):  # compiled, then read from the cache
        found = open_single_engine("openvino", card, settings).run(models.scatter_arrays())
        np.testing.assert_allclose(found["scores"], expected["scores"], atol=1e-5)
        np.testing.assert_array_equal(found["indices"], expected["indices"])
    assert len(list((tmp_path / "cache").glob("scatter-openvino-*-fp32.engine"))) == 1


def test_several_frames_are_processed_in_parallel_with_the_same_results(
    card: ModelCard, tmp_path: Path
) -> None:
    engine = open_single_engine("openvino", card, config(tmp_path, threads=2))
    frames = [models.scatter_arrays(seed) for seed in range(3)]
    together = engine.run_many(frames)
    for arrays, outputs in zip(frames, together, strict=True):
        np.testing.assert_allclose(outputs["scores"], engine.run(arrays)["scores"], atol=1e-5)
    assert engine.timings.runs == 6


@pytest.mark.parametrize("damage", ["truncated", "other bytes", "garbage plan"])
def test_a_damaged_cache_file_is_replaced(damage: str, card: ModelCard, tmp_path: Path) -> None:
    settings = config(tmp_path)
    expected = open_single_engine("openvino", card, settings).run(models.scatter_arrays())
    (path,) = (tmp_path / "cache").glob("*.engine")
    content = path.read_bytes()
    if damage == "truncated":
        path.write_bytes(content[: len(content) // 2])
    elif damage == "other bytes":
        path.write_bytes(b"not an engine")
    else:  # a valid header and hash, of a plan that OpenVINO refuses
        from multimodal_perception.runtime import cache

        key = cache.json.loads(content[len(cache.MAGIC) :].split(b"\n")[0])["key"]
        cache._write(path, cache.EngineKey(**key), b"garbage")
    found = open_single_engine("openvino", card, settings).run(models.scatter_arrays())
    np.testing.assert_array_equal(found["indices"], expected["indices"])
    assert len(path.read_bytes()) > 1000


def test_an_unwritable_cache_does_not_prevent_inference(card: ModelCard, tmp_path: Path) -> None:
    (tmp_path / "cache").touch()
    engine = open_single_engine("openvino", card, config(tmp_path))
    assert engine.run(models.scatter_arrays())["scores"].shape == (1, 5)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"openvino_device": "NPU"}, "no device NPU; OpenVINO finds: CPU"),
        (
            {"openvino_device": "GPU.1", "device": "cpu"},
            "device is cpu, but openvino_device is GPU.1",
        ),
        ({"device": "cuda"}, "does not run on CUDA"),
        ({"precision": "int8"}, "int8 is not calibrated .*export int8 scatter"),
    ],
)
def test_an_unusable_setting_is_an_engine_error(
    values: dict[str, Any], words: str, card: ModelCard, tmp_path: Path
) -> None:
    with pytest.raises(EngineError, match=words):
        open_single_engine("openvino", card, config(tmp_path, **values))


def test_a_missing_old_or_broken_library_leaves_the_next_engine(
    card: ModelCard,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    real = importlib.import_module

    def fake(result: Any) -> Any:
        def load(name: str, *rest: Any) -> Any:
            if name != "openvino":
                return real(name, *rest)
            if isinstance(result, Exception):
                raise result
            return result

        return load

    for result, words in (
        (ImportError("No module named 'openvino'"), "not installed"),
        (OSError("libtbb.so.12: cannot open"), "cannot be loaded"),
        (SimpleNamespace(__version__="2022.3.0-1"), "2022.3.0-1 is below 2024.0"),
        (SimpleNamespace(), "cannot be loaded"),
    ):
        monkeypatch.setattr(openvino.importlib, "import_module", fake(result))
        engine = open_engine(card, config(tmp_path, order=("openvino", "onnxruntime")))
        assert engine.name == "onnxruntime"
        assert words in engine.diagnostics()["unavailable.openvino"]
        assert openvino.devices() == [] and openvino.device_precisions("CPU") == []


def test_a_failing_request_is_replaced_within_the_frame(
    card: ModelCard, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = open_engine(card, config(tmp_path, order=("openvino", "onnxruntime")))
    assert engine.name == "openvino"

    def lost(self: Any, arrays: Any) -> Any:
        raise RuntimeError("the device was removed")

    monkeypatch.setattr(OpenVINOBackend, "infer", lost)
    assert engine.run(models.scatter_arrays())["scores"].shape == (1, 5)
    assert engine.name == "onnxruntime" and "the device was removed" in engine.degraded_reason


def test_a_model_that_differs_from_its_card_is_refused(tmp_path: Path) -> None:
    wrong = {**models.OUTPUTS, "scores": TensorSpec((1, 6))}
    card = models.save(tmp_path / "wrong", models.scatter_model(), outputs=wrong)
    with pytest.raises(EngineError, match="output scores of the ONNX model"):
        open_single_engine("openvino", card, config(tmp_path))


def test_an_unsupported_operator_is_an_engine_error(tmp_path: Path) -> None:
    import onnx

    node = onnx.helper.make_node("Unheard", ["x"], ["y"], domain="example.org")
    value = onnx.helper.make_tensor_value_info
    graph = onnx.helper.make_graph([node], "g", [value("x", 1, [2])], [value("y", 1, [2])])
    opsets = [onnx.helper.make_opsetid("", 18), onnx.helper.make_opsetid("example.org", 1)]
    model = onnx.helper.make_model(graph, opset_imports=opsets, ir_version=10)
    specs = {"x": TensorSpec((2,))}, {"y": TensorSpec((2,))}
    card = models.save(tmp_path / "custom", model, inputs=specs[0], outputs=specs[1])
    with pytest.raises(EngineError, match="cannot compile"):
        open_single_engine("openvino", card, config(tmp_path))


def test_channels_last_outputs_are_returned_with_channels_first() -> None:
    array = np.random.default_rng(0).normal(size=(1, 5, 7, 33)).astype(np.float32)
    found = channels_first(array)
    np.testing.assert_array_equal(found, array.transpose(0, 3, 1, 2))
    assert found.flags.c_contiguous
