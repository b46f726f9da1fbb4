"""Small ONNX networks for the tests of imported image networks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

OPSET = [helper.make_opsetid("", 17)]


def save(path: Path, nodes: list, inputs: list, outputs: list, constants: Mapping) -> Path:
    initializers = [numpy_helper.from_array(np.asarray(v), k) for k, v in constants.items()]
    graph = helper.make_graph(nodes, "network", inputs, outputs, initializers)
    model = helper.make_model(graph, opset_imports=OPSET, ir_version=9)
    onnx.checker.check_model(model)
    path.write_bytes(model.SerializeToString())
    return path


def constant_network(
    path: Path,
    outputs: Mapping[str, np.ndarray],
    shape: Sequence[int | str] = (1, 3, 64, 96),
    dtype: int = TensorProto.FLOAT,
    declared: Mapping[str, Sequence[int | str]] | None = None,
) -> Path:
    """A network with the same outputs for every image. declared: shapes to write into the file."""
    nodes = [
        helper.make_node("Cast", ["images"], ["float_images"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["float_images"], ["mean"], keepdims=0),
        helper.make_node("Mul", ["mean", "nothing"], ["zero"]),
    ]
    constants: dict[str, np.ndarray] = {"nothing": np.zeros((), np.float32)}
    values = []
    for name, array in outputs.items():
        kind = helper.np_dtype_to_tensor_dtype(array.dtype)
        constants[f"{name}_values"] = array
        nodes += [
            helper.make_node("Cast", ["zero"], [f"{name}_zero"], to=kind),
            helper.make_node("Add", [f"{name}_values", f"{name}_zero"], [name]),
        ]
        shape_of_output = (declared or {}).get(name, array.shape)
        values.append(helper.make_tensor_value_info(name, kind, list(shape_of_output)))
    inputs = [helper.make_tensor_value_info("images", dtype, list(shape))]
    return save(path, nodes, inputs, values, constants)


def rectangle_network(
    path: Path,
    size: tuple[int | str, int | str] = (64, 96),
    layout: str = "NCHW",
    channel: int = 0,
    threshold: float = 0.5,
    dtype: int = TensorProto.FLOAT,
    rows: int | str = 1,
) -> Path:
    """A detector (1, 1, 6) of the pixels that are brighter than a threshold in one channel.

    rows: declared number of boxes; a name makes it depend on the image: none without bright pixels.
    """
    height, width = size
    image_shape = [1, 3, height, width] if layout == "NCHW" else [1, height, width, 3]
    channel_axis = 1 if layout == "NCHW" else 3
    nodes = [
        helper.make_node("Cast", ["images"], ["values"], to=TensorProto.FLOAT),
        helper.make_node("Gather", ["values", "channel"], ["plane"], axis=channel_axis),
        helper.make_node("Greater", ["plane", "threshold"], ["bright"]),
        helper.make_node("Cast", ["bright"], ["mask"], to=TensorProto.FLOAT),
    ]
    # Without the channel axis the rows are axis 1 and the columns axis 2.
    for name, other in (("x", 1), ("y", 2)):
        nodes += [
            helper.make_node("ReduceMax", ["mask"], [f"{name}_mask"], axes=[other], keepdims=0),
            helper.make_node("Shape", [f"{name}_mask"], [f"{name}_shape"]),
            helper.make_node("Gather", [f"{name}_shape", "one"], [f"{name}_count"]),
            helper.make_node("Range", ["zero_i", f"{name}_count", "one"], [f"{name}_index_i"]),
            helper.make_node("Cast", [f"{name}_index_i"], [f"{name}_index"], to=TensorProto.FLOAT),
            helper.make_node("Greater", [f"{name}_mask", "half"], [f"{name}_bright"]),
            helper.make_node("Where", [f"{name}_bright", f"{name}_index", "big"], [f"{name}_a"]),
            helper.make_node("Where", [f"{name}_bright", f"{name}_index", "minus"], [f"{name}_b"]),
            helper.make_node("ReduceMin", [f"{name}_a"], [f"{name}1"], axes=[1], keepdims=1),
            helper.make_node("ReduceMax", [f"{name}_b"], [f"{name}2_in"], axes=[1], keepdims=1),
            helper.make_node("Add", [f"{name}2_in", "one_f"], [f"{name}2"]),
        ]
    nodes += [
        helper.make_node("Concat", ["x1", "y1", "x2", "y2", "score", "label"], ["row"], axis=1),
        helper.make_node("Unsqueeze", ["row", "axis_one"], ["all_boxes"]),
    ]
    constants = {
        "channel": np.array(channel), "threshold": np.float32(threshold), "one": np.array(1),
        "zero_i": np.array(0), "half": np.float32(0.5), "big": np.float32(1e4),
        "minus": np.float32(-1.0), "one_f": np.float32(1.0), "axis_one": np.array([1]),
        "score": np.array([[0.9]], np.float32), "label": np.array([[2.0]], np.float32),
    }  # fmt: skip
    if isinstance(rows, str):
        nodes += [
            helper.make_node("ReduceMax", ["mask"], ["any"], keepdims=0),
            helper.make_node("Cast", ["any"], ["count"], to=TensorProto.INT64),
            helper.make_node("Unsqueeze", ["count", "axis_zero"], ["end"]),
            helper.make_node("Slice", ["all_boxes", "axis_zero", "end", "axis_one"], ["boxes"]),
        ]
        constants["axis_zero"] = np.array([0])
    else:
        nodes.append(helper.make_node("Identity", ["all_boxes"], ["boxes"]))
    inputs = [helper.make_tensor_value_info("images", dtype, image_shape)]
    outputs = [helper.make_tensor_value_info("boxes", TensorProto.FLOAT, [1, rows, 6])]
    return save(path, nodes, inputs, outputs, constants)
