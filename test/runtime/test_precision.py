"""Conversion to float16 and int8: accuracy, which layers are converted, and building with TensorRT."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import onnx
import pytest

from multimodal_perception.configuration import UserError
from multimodal_perception.runtime.card import ModelCard
from multimodal_perception.runtime.engine import EngineError
from multimodal_perception.runtime.precision import (
    calibrated_model,
    calibrated_path,
    convert_to_half,
    model_at_precision,
    source_digest,
)
from multimodal_perception.runtime.quantization import (
    output_differences,
    quantize_int8,
)
from multimodal_perception.runtime.settings import RuntimeConfig
from multimodal_perception.runtime.tensorrt import ANY_GPU, Library, Target, build_plan
from test.runtime import small_models as models

SM89 = Target(ANY_GPU, (8, 9))
FRAMES = [models.scatter_arrays(seed) for seed in range(6)]


@pytest.fixture
def card(tmp_path: Path) -> ModelCard:
    return models.save(tmp_path / "model", models.scatter_model())


def nodes(content: bytes, op_type: str) -> list[onnx.NodeProto]:
    return [n for n in onnx.load_model_from_string(content).graph.node if n.op_type == op_type]


def test_half_precision_is_accurate_and_keeps_inputs_and_outputs(card: ModelCard) -> None:
    content = convert_to_half(card.read_file("onnx"))
    onnx.checker.check_model(onnx.load_model_from_string(content), full_check=True)
    assert 0 < output_differences(card, content, FRAMES)["scores"] < 2e-3
    # The convolutions and the layers between them are float16: one cast before, one after.
    assert all(name.endswith("_half") for n in nodes(content, "Conv") for name in n.input)
    assert nodes(content, "Relu")[0].input[0].endswith("_half")
    assert len(nodes(content, "Cast")) == 2


def test_sampling_positions_stay_float32(card: ModelCard) -> None:
    content = convert_to_half(card.read_file("onnx"))
    (sample,) = nodes(content, "GridSample")
    assert list(sample.input) == ["c2", "grid"]


def test_point_projection_stays_float32_and_feature_layers_become_float16() -> None:
    rng = np.random.default_rng(0)
    text = """
    <ir_version: 10, opset_import: ["" : 18]>
    g (float[1,100,4] points, float[1,3,8,8] image) => (float[1,100,4] projected, float[1,10] y)
    {
      projected = MatMul(points, matrix)
      c = Conv<pads=[1,1,1,1]>(image, w)
      r = Relu(c)
      shape = Constant<value = int64[2] {1, 256}>()
      flat = Reshape(r, shape)
      y = MatMul(flat, head)
    }
    """
    model = onnx.parser.parse_model(text)
    for name, shape in {"matrix": (4, 4), "w": (4, 3, 3, 3), "head": (256, 10)}.items():
        array = rng.normal(0, 0.3, shape).astype(np.float32)
        model.graph.initializer.append(onnx.numpy_helper.from_array(array, name))
    content = convert_to_half(model.SerializeToString())
    onnx.checker.check_model(onnx.load_model_from_string(content), full_check=True)
    by_output = {n.output[0]: n for n in nodes(content, "MatMul")}
    assert list(by_output["projected"].input) == ["points", "matrix"]
    assert list(by_output["y_half"].input) == ["flat_half", "head_half"]


def test_layer_with_a_weight_beyond_float16_range_stays_float32(tmp_path: Path) -> None:
    model = models.scatter_model()
    (weight,) = (w for w in model.graph.initializer if w.name == "w1")
    array = onnx.numpy_helper.to_array(weight).copy()
    array[0, 0, 0, 0] = 1e5
    weight.CopyFrom(onnx.numpy_helper.from_array(array, "w1"))
    card = models.save(tmp_path / "large", model)
    content = convert_to_half(card.read_file("onnx"))
    first, second = nodes(content, "Conv")
    assert "w1" in first.input and "w2_half" in second.input
    assert np.isfinite(output_differences(card, content, FRAMES)["scores"])


def test_int8_is_accurate_and_bound_to_the_weights(card: ModelCard, tmp_path: Path) -> None:
    config = RuntimeConfig(precision="int8", cache=str(tmp_path / "cache"))
    with pytest.raises(EngineError, match=r"not calibrated .*export int8 model --calibrate"):
        model_at_precision(card, config)
    content = quantize_int8(card, iter(FRAMES))
    assert 0 < output_differences(card, content, FRAMES)["scores"] < 0.05
    path = calibrated_path(card, config.cache_folder)
    path.parent.mkdir()
    path.write_bytes(content)
    assert model_at_precision(card, config) == content
    other = models.save(tmp_path / "model", models.scatter_model(seed=1))
    with pytest.raises(EngineError, match="calibrated for other weights"):
        calibrated_model(other, config)
    path.write_bytes(b"\xff" * 100)
    with pytest.raises(EngineError, match="is not an ONNX model"):
        calibrated_model(card, config)


def test_calibration_data_has_the_names_of_the_card(card: ModelCard) -> None:
    inputs = {"photo" if n == "image" else n: s for n, s in card.inputs.items()}
    renamed = dataclasses.replace(card, inputs=inputs, onnx_names={"photo": "image"})
    frames = [{"photo" if n == "image" else n: a for n, a in f.items()} for f in FRAMES]
    content = quantize_int8(renamed, frames)
    assert 0 < output_differences(renamed, content, frames)["scores"] < 0.05


def test_each_precision_has_its_own_digest(card: ModelCard, tmp_path: Path) -> None:
    digests = set()
    for precision in ("fp32", "fp16", "int8"):
        config = RuntimeConfig(precision=precision, cache=str(tmp_path))
        if precision == "int8":
            calibrated_path(card, config.cache_folder).write_bytes(
                quantize_int8(card, iter(FRAMES))
            )
        digests.add(source_digest(card, config))
    assert len(digests) == 3
    calibrated_path(card, config.cache_folder).write_bytes(quantize_int8(card, iter(FRAMES[:2])))
    assert source_digest(card, config) not in digests  # a new calibration needs a new engine


def test_tensorrt_builds_fp16_and_int8(card: ModelCard) -> None:
    pytest.importorskip("tensorrt_rtx")
    library, config = Library("tensorrt_rtx"), RuntimeConfig()
    single = build_plan(library, card.read_file("onnx"), card, config, SM89)
    for content in (convert_to_half(card.read_file("onnx")), quantize_int8(card, iter(FRAMES))):
        assert build_plan(library, content, card, config, SM89) != single


def test_nothing_to_quantise_raises(tmp_path: Path) -> None:
    from multimodal_perception.runtime.card import TensorSpec

    spec = {"inputs": {"x": TensorSpec((2,))}, "outputs": {"y": TensorSpec((2,))}}
    card = models.save(tmp_path / "log", models.log_model(), **spec)
    with pytest.raises(UserError, match="no 2D convolution"):
        quantize_int8(card, iter([{"x": np.ones(2, np.float32)}]))
    with pytest.raises(UserError, match="no frames"):
        quantize_int8(card, iter([]))
    with pytest.raises(EngineError, match="has no ONNX"):
        source_digest(dataclasses.replace(card, onnx=None), RuntimeConfig())
