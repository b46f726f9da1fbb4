"""A card's ONNX model at the precision of an engine.

TensorRT builds strongly typed networks: the types in the ONNX model are those of the engine. Therefore
its fp16 needs an ONNX model with float16 types. int8 needs QuantizeLinear and DequantizeLinear nodes on
every engine; calibration makes them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from multimodal_perception.runtime.card import ModelCard
from multimodal_perception.runtime.engine import EngineError
from multimodal_perception.runtime.settings import RuntimeConfig

if TYPE_CHECKING:
    import onnx

SOURCE_KEY = "multimodal_perception.source_sha256"
HALF_VERSION = "half 1"  # version of convert_to_half, part of the engine cache's key
HALF_MAX = 65504.0  # largest float16
# Computed in float16 if all of their inputs are: activations, element-wise and shape operators.
FOLLOWERS = frozenset(
    (
        *("Add", "Sub", "Mul", "Concat", "Identity", "BatchNormalization"),
        *("Relu", "LeakyRelu", "PRelu", "Elu", "Gelu", "Clip", "Tanh"),
        *("Sigmoid", "HardSigmoid", "HardSwish"),
        *("MaxPool", "AveragePool", "GlobalAveragePool", "Resize", "Pad"),
        *("Reshape", "Flatten", "Transpose", "Slice", "Split", "Squeeze", "Unsqueeze"),
    )
)


def model_at_precision(card: ModelCard, config: RuntimeConfig) -> bytes:
    """Return the ONNX model for a TensorRT engine at the configured precision.

    Raises UserError; EngineError if int8 is not calibrated, or for bf16.
    """
    if config.engine_precision == "int8":
        return calibrated_model(card, config)
    if config.engine_precision == "bf16":
        raise EngineError("bf16 is not supported; allowed: fp32, fp16, int8")
    content = card.read_file("onnx")
    return convert_to_half(content) if config.engine_precision == "fp16" else content


def source_digest(card: ModelCard, config: RuntimeConfig) -> str:
    """Return the engine cache's key of the ONNX model. Raises the errors of model_at_precision."""
    if config.engine_precision == "int8":
        return hashlib.sha256(calibrated_model(card, config)).hexdigest()
    if card.onnx is None:
        raise EngineError(f"{card.source} has no ONNX file")
    suffix = f" {HALF_VERSION}" if config.engine_precision == "fp16" else ""
    return card.onnx.sha256 + suffix


def calibrated_path(card: ModelCard, folder: Path) -> Path:
    """Return the path of a card's calibrated ONNX model in the cache folder."""
    return folder / f"{card.name}-int8.onnx"


def calibrated_model(card: ModelCard, config: RuntimeConfig) -> bytes:
    """Read the int8 ONNX model made from the card's current ONNX model.

    Raises EngineError with the command that makes it, if it is missing, damaged or made from other
    weights.
    """
    import onnx
    from google.protobuf.message import DecodeError

    path = calibrated_path(card, config.cache_folder)
    command = f"multimodal-perception export int8 {card.name} --calibrate PATH"
    try:
        content = path.read_bytes()
        model = onnx.load_model_from_string(content)
    except OSError as error:
        raise EngineError(f"int8 is not calibrated ({path} is missing): {command}") from error
    except DecodeError as error:
        raise EngineError(f"{path} is not an ONNX model: {command}") from error
    source = {entry.key: entry.value for entry in model.metadata_props}.get(SOURCE_KEY)
    if card.onnx is None or source != card.onnx.sha256:
        raise EngineError(f"{path} was calibrated for other weights: {command}")
    return content


def convert_to_half(content: bytes) -> bytes:
    """Convert the learned layers to float16; inputs and outputs stay float32.

    Converted are 2D convolutions, matrix products of learned weights with tensors that are already
    float16, and the operators of FOLLOWERS between them. Everything computed directly from the inputs
    stays float32: float16 has a resolution of 3 cm at 50 m, which is too coarse for coordinates,
    projections and sampling positions.
    """
    import onnx
    from onnx import inliner, shape_inference

    model = inliner.inline_local_functions(onnx.load_model_from_string(content))
    for node in model.graph.node:
        if any(a.type in (a.GRAPH, a.GRAPHS) for a in node.attribute):
            raise EngineError(f"fp16: control flow is not supported ({node.op_type} {node.name})")
    model = shape_inference.infer_shapes(model, strict_mode=True)
    graph = _HalfGraph(model)
    nodes = list(graph.convert())
    del model.graph.node[:], model.graph.value_info[:]
    model.graph.node.extend(nodes)
    return bytes(model.SerializeToString())


class _HalfGraph:
    """Converts a graph in one pass, in order; yields its nodes and the Cast nodes between them."""

    def __init__(self, model: onnx.ModelProto) -> None:
        import onnx

        self.onnx = onnx
        self.graph = model.graph
        self.weights = {w.name: w for w in self.graph.initializer}
        described = [*self.graph.input, *self.graph.output, *self.graph.value_info]
        types = {v.name: v.type.tensor_type.elem_type for v in described}
        types.update({w.name: w.data_type for w in self.weights.values()})
        self.floats = {n for n, t in types.items() if t == onnx.TensorProto.FLOAT}
        self.constants = set(self.weights)
        for node in self.graph.node:
            if node.op_type == "Constant":
                self.constants.update(node.output)
        self.half: set[str] = set()  # tensors computed as NAME_half; NAME is made by a cast
        self.made: set[str] = set()  # float16 and cast tensors made so far

    def convert(self) -> Iterator[onnx.NodeProto]:
        for node in self.graph.node:
            if self._in_half(node):
                for index in self._data(node):
                    name = node.input[index]
                    yield from self._to_half(name)
                    node.input[index] = f"{name}_half"
                self.half.update(node.output)
                self.made.update(f"{name}_half" for name in node.output)
                node.output[:] = [f"{name}_half" for name in node.output]
            else:
                for name in node.input:
                    yield from self._to_single(name)
            yield node
        for value in self.graph.output:
            yield from self._to_single(value.name)

    def _data(self, node: onnx.NodeProto) -> list[int]:
        """Indices of the inputs to convert, for example not the scales of a Resize."""
        inputs = range(1 if node.op_type == "Resize" else len(node.input))
        return [k for k in inputs if node.input[k] in self.floats]

    def _in_half(self, node: onnx.NodeProto) -> bool:
        """Whether to compute this node in float16."""
        data = [node.input[k] for k in self._data(node)]
        computed = [name for name in data if name not in self.constants]
        if not computed or not all(self._fits(name) for name in data):
            return False
        if node.op_type in ("Conv", "ConvTranspose"):
            weight = self.weights.get(node.input[1])
            return weight is not None and len(weight.dims) >= 4
        follows = all(name in self.half for name in computed)
        if node.op_type in ("MatMul", "Gemm"):
            return follows and any(name in self.constants for name in data)
        return follows and node.op_type in FOLLOWERS

    def _fits(self, name: str) -> bool:
        """Whether a weight is within float16's range; computed tensors are assumed to be."""
        if name not in self.weights:
            return True
        array = self.onnx.numpy_helper.to_array(self.weights[name])
        return bool(np.abs(array).max(initial=0.0) <= HALF_MAX)

    def _to_half(self, name: str) -> Iterator[onnx.NodeProto]:
        half = f"{name}_half"
        if half in self.made:
            return
        self.made.add(half)
        if name in self.weights:
            array = self.onnx.numpy_helper.to_array(self.weights[name]).astype(np.float16)
            self.graph.initializer.append(self.onnx.numpy_helper.from_array(array, half))
        else:
            yield self._cast(name, half, self.onnx.TensorProto.FLOAT16)

    def _to_single(self, name: str) -> Iterator[onnx.NodeProto]:
        if name in self.half and name not in self.made:
            self.made.add(name)
            yield self._cast(f"{name}_half", name, self.onnx.TensorProto.FLOAT)

    def _cast(self, source: str, target: str, dtype: Any) -> onnx.NodeProto:
        return self.onnx.helper.make_node("Cast", [source], [target], f"{target}_cast", to=dtype)
