"""Small ONNX networks with operators that some engines do not support, and cards for them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper

from multimodal_perception.runtime.card import ModelCard, TensorSpec, write_card

FLOAT, INT64 = TensorProto.FLOAT, TensorProto.INT64
INPUTS = {
    "image": TensorSpec((1, 3, 16, 24)),
    "grid": TensorSpec((1, 8, 8, 2)),
    "cells": TensorSpec((1, 4, 64), "int64"),
}
OUTPUTS = {"scores": TensorSpec((1, 5)), "indices": TensorSpec((1, 5), "int64")}


def scatter_model(seed: int = 0) -> onnx.ModelProto:
    """Convolutions, GridSample at given positions, ScatterElements over cells, TopK of the sum."""
    rng = np.random.default_rng(seed)
    weights = {
        "w1": rng.normal(0, 0.3, (8, 3, 3, 3)),
        "b1": rng.normal(0, 0.1, 8),
        "w2": rng.normal(0, 0.3, (4, 8, 3, 3)),
        "zeros": np.zeros((1, 4, 64)),
    }
    initializers = [
        helper.make_tensor(n, FLOAT, w.shape, w.astype(np.float32).ravel())
        for n, w in weights.items()
    ]
    for name, values in {"flat": [1, 4, 64], "k": [5], "axis": [1]}.items():
        initializers.append(helper.make_tensor(name, INT64, [len(values)], values))
    nodes = [
        helper.make_node("Conv", ["image", "w1", "b1"], ["c1"], "conv1", pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["c1"], ["r1"], "relu1"),
        helper.make_node("Conv", ["r1", "w2"], ["c2"], "conv2", pads=[1, 1, 1, 1]),
        helper.make_node(
            "GridSample", ["c2", "grid"], ["s"], "sample", mode="bilinear", align_corners=0
        ),
        helper.make_node("Reshape", ["s", "flat"], ["values"], "reshape"),
        helper.make_node(
            "ScatterElements",
            ["zeros", "cells", "values"],
            ["bev"],
            "scatter",
            axis=2,
        ),
        helper.make_node("ReduceSum", ["bev", "axis"], ["sum"], "sum", keepdims=0),
        helper.make_node("TopK", ["sum", "k"], ["scores", "indices"], "topk", axis=1),
    ]
    graph = helper.make_graph(
        nodes,
        "scatter",
        [_value(n, s) for n, s in INPUTS.items()],
        [_value(n, s) for n, s in OUTPUTS.items()],
        initializers,
    )
    return _model(graph)


def scatter_arrays(seed: int = 0) -> dict[str, np.ndarray]:
    """One frame for scatter_model."""
    rng = np.random.default_rng(seed)
    return {
        "image": rng.normal(0, 1, (1, 3, 16, 24)).astype(np.float32),
        "grid": rng.uniform(-1, 1, (1, 8, 8, 2)).astype(np.float32),
        "cells": np.stack([rng.permutation(64) for _ in range(4)])[None],
    }


def log_model() -> onnx.ModelProto:
    """y = log(x), which gives NaN for a negative input."""
    graph = helper.make_graph(
        [helper.make_node("Log", ["x"], ["y"])],
        "log",
        [_value("x", TensorSpec((2,)))],
        [_value("y", TensorSpec((2,)))],
    )
    return _model(graph)


def model_without_convolutions() -> onnx.ModelProto:
    """The inputs of scatter_model, of which the image is returned."""
    inputs = [_value(n, s) for n, s in INPUTS.items()]
    node = helper.make_node("Identity", ["image"], ["y"])
    return _model(helper.make_graph([node], "identity", inputs, [_value("y", INPUTS["image"])]))


def save(folder: Path, model: onnx.ModelProto, **values: Any) -> ModelCard:
    """Write model.onnx and its card; `values` are fields of the card."""
    folder.mkdir(parents=True, exist_ok=True)
    onnx.save(model, folder / "model.onnx")
    values = {
        "name": folder.name,
        "architecture": "none",
        "licence": "MIT",
        "inputs": INPUTS,
        **values,
    }
    return write_card(folder, ModelCard(**{"outputs": OUTPUTS, **values}), onnx="model.onnx")


def _value(name: str, spec: TensorSpec) -> onnx.ValueInfoProto:
    dtype = helper.np_dtype_to_tensor_dtype(np.dtype(spec.dtype))
    return helper.make_tensor_value_info(name, dtype, spec.shape)


def _model(graph: onnx.GraphProto) -> onnx.ModelProto:
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    onnx.checker.check_model(model, full_check=True)
    return model
