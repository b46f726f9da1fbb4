"""Reading of ONNX files of unknown origin, with static shapes for the inference engines.

The file is parsed, never executed here. Weights in other files (external data) are refused: a path in a
downloaded file could name any file of the computer.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from multimodal_perception.configuration import UserError
from multimodal_perception.files import read_regular_file
from multimodal_perception.runtime.card import TensorSpec

MAX_FILE_BYTES = 512 << 20
# Largest side of an input image, pixels, and largest number of elements of an output.
MAX_SIDE, MAX_OUTPUT_ELEMENTS = 4096, 1 << 27
# Outputs whose number of rows depends on the image are padded with zeros to this number of rows.
MAX_ROWS = 300
MAX_TENSORS_LISTED = 12
DYNAMIC = 0


@dataclass(frozen=True)
class Tensor:
    """An input or output of a network.

    shape: sizes, DYNAMIC where not fixed; None if unknown. dtype: name of the NumPy type.
    """

    name: str
    shape: tuple[int, ...] | None
    dtype: str

    def __str__(self) -> str:
        if self.shape is None:
            return f"{self.name} [?] {self.dtype}"
        sizes = ", ".join(str(s) if s != DYNAMIC else "?" for s in self.shape)
        return f"{self.name} [{sizes}] {self.dtype}"


@dataclass
class OnnxFile:
    """A parsed ONNX file. model: onnx.ModelProto, which `fix_input` and others change."""

    path: Path
    model: Any

    @property
    def inputs(self) -> list[Tensor]:
        """Inputs without default values."""
        constants = {tensor.name for tensor in self.model.graph.initializer}
        return [_tensor(v) for v in self.model.graph.input if v.name not in constants]

    @property
    def outputs(self) -> list[Tensor]:
        """Outputs in the order of the file."""
        return [_tensor(v) for v in self.model.graph.output]

    def describe(self) -> str:
        """Inputs and outputs in words, for errors."""
        return f"the file has inputs {_list(self.inputs)}; outputs {_list(self.outputs)}"

    def error(self, message: str) -> UserError:
        """An error that names the file and shows its inputs and outputs."""
        return UserError(f"{self.path}: {message}; {self.describe()}")

    def fix_input(self, name: str, shape: Sequence[int]) -> None:
        """Give an input fixed sizes and remove the sizes that were inferred from the former ones."""
        for value in self.model.graph.input:
            if value.name == name:
                _set_shape(value, shape)
        del self.model.graph.value_info[:]
        for value in self.model.graph.output:
            dims = value.type.tensor_type.shape.dim
            for dim in dims:
                if dim.HasField("dim_param"):
                    dim.ClearField("dim_param")

    def make_constant(self, name: str, value: np.ndarray[Any, Any]) -> None:
        """Replace an input by a constant, such as the size of the original image."""
        from onnx import numpy_helper

        graph = self.model.graph
        for k, tensor in enumerate(graph.input):
            if tensor.name == name:
                del graph.input[k]
                break
        graph.initializer.append(numpy_helper.from_array(value, name))

    def set_output_shapes(self, shapes: Mapping[str, Sequence[int]]) -> None:
        """Declare the sizes of outputs."""
        for value in self.model.graph.output:
            _set_shape(value, shapes[value.name])

    def add_constant_output(self, name: str, value: np.ndarray[Any, Any]) -> None:
        """Add an output that is always the same array, such as the priors of an SSD."""
        from onnx import helper, numpy_helper

        graph = self.model.graph
        graph.initializer.append(numpy_helper.from_array(value, f"{name}_values"))
        graph.node.append(
            helper.make_node("Identity", [f"{name}_values"], [name], name=f"{name}_output")
        )
        kind = helper.np_dtype_to_tensor_dtype(value.dtype)
        graph.output.append(helper.make_tensor_value_info(name, kind, list(value.shape)))

    def pad_rows(self, name: str, axis: int, shape: Sequence[int]) -> None:
        """Pad an output along an axis with zeros to a fixed size, and cut what exceeds it.

        shape: fixed sizes of the output. The output keeps its name.
        """
        from onnx import helper, numpy_helper

        graph = self.model.graph
        inner = f"{name}_before_padding"
        _rename_value(graph, name, inner)
        dtype = next(v for v in graph.output if v.name == name).type.tensor_type.elem_type
        zeros = np.zeros(shape, helper.tensor_dtype_to_np_dtype(dtype))
        starts, ends = np.array([0], np.int64), np.array([shape[axis]], np.int64)
        constants = {
            "zeros": zeros,
            "starts": starts,
            "ends": ends,
            "axes": np.array([axis], np.int64),
        }
        for key, value in (*constants.items(), ("shape", np.array(shape, np.int64))):
            graph.initializer.append(numpy_helper.from_array(value, f"{name}_{key}"))
        sliced = [f"{name}_padded", f"{name}_starts", f"{name}_ends", f"{name}_axes"]
        graph.node.extend(
            [
                helper.make_node("Concat", [inner, f"{name}_zeros"], [f"{name}_padded"], axis=axis),
                helper.make_node("Slice", sliced, [f"{name}_sliced"]),
                helper.make_node("Reshape", [f"{name}_sliced", f"{name}_shape"], [name]),
            ]
        )

    def to_bytes(self) -> bytes:
        """The file with all changes."""
        return bytes(self.model.SerializeToString())


def read_onnx(path: Path, max_bytes: int = MAX_FILE_BYTES) -> OnnxFile:
    """Parse an ONNX file.

    Raises UserError for a file that cannot be read, is too large, is no ONNX model, needs external
    data, or has no inputs or outputs.
    """
    import onnx
    from google.protobuf.message import DecodeError

    content = read_regular_file(path, max_bytes)
    try:
        model = onnx.load_model_from_string(content)
    except (DecodeError, ValueError, TypeError) as error:
        raise UserError(f"{path}: not an ONNX file") from error
    if not model.graph.node or not model.graph.output:
        raise UserError(f"{path}: not an ONNX network: it has no nodes or no outputs")
    for tensor in _tensors(model.graph):
        if tensor.data_location == onnx.TensorProto.EXTERNAL or tensor.external_data:
            raise UserError(
                f"{path}: its weights are in other files (external data, tensor {tensor.name!r}), "
                "which is not supported; save the model as a single file, for example with "
                "onnx.save(onnx.load(FILE), OUT)"
            )
    for functions in model.functions:
        for node in functions.node:
            _refuse_external(path, node)
    return OnnxFile(path, model)


def image_input(file: OnnxFile, layout: str = "") -> tuple[Tensor, str]:
    """The input with the image, and its layout NCHW or NHWC.

    layout: required layout, or "" to derive it from the sizes. Raises UserError if the file has no input
    with three channels, or several.
    """
    found = []
    channels = 1 if layout == "NCHW" else 3
    for tensor in file.inputs:
        shape = tensor.shape
        if shape is None or len(shape) != 4 or tensor.dtype not in ("float32", "float16", "uint8"):
            continue
        if shape[1] == 3 and layout in ("", "NCHW"):
            found.append((tensor, "NCHW"))
        elif shape[3] == 3 and layout in ("", "NHWC"):
            found.append((tensor, "NHWC"))
        elif layout and 3 not in (shape[1], shape[3]) and shape[channels] == DYNAMIC:
            found.append((tensor, layout))
    if len(found) != 1:
        what = "no input" if not found else f"{len(found)} inputs"
        raise file.error(
            f"{what} of an image: needed is one input [N, 3, H, W] or [N, H, W, 3] of float32, float16 "
            "or uint8"
        )
    return found[0]


def input_size(
    file: OnnxFile, tensor: Tensor, layout: str, size: tuple[int, int] | None
) -> tuple[int, int]:
    """Height and width of the network's image.

    size: requested (height, width), needed where the file leaves the size open. Raises UserError for a
    size that contradicts the file, or that is too large.
    """
    assert tensor.shape is not None
    rows, columns = (2, 3) if layout == "NCHW" else (1, 2)
    fixed = tensor.shape[rows], tensor.shape[columns]
    if size is None and DYNAMIC in fixed:
        raise file.error(f"--size HEIGHT WIDTH is required: input {tensor.name} has no fixed size")
    chosen = tuple(f if size is None else s for f, s in zip(fixed, size or fixed, strict=True))
    if any(DYNAMIC not in (f, c) and f != c for f, c in zip(fixed, chosen, strict=True)):
        raise file.error(f"--size {chosen[0]} {chosen[1]}: the file has {fixed[0]} {fixed[1]}")
    if not all(8 <= s <= MAX_SIDE for s in chosen):
        raise file.error(f"image size {chosen[0]}x{chosen[1]}: allowed: 8 to {MAX_SIDE}")
    return chosen[0], chosen[1]


def specification(name: str, shape: Sequence[int], dtype: str, path: Path) -> TensorSpec:
    """Specification of a tensor with static sizes. Raises UserError if it is too large."""
    try:
        if int(np.prod([int(s) for s in shape], dtype=object)) > MAX_OUTPUT_ELEMENTS:
            raise ValueError(f"more than {MAX_OUTPUT_ELEMENTS} elements")
        return TensorSpec(tuple(int(s) for s in shape), dtype)  # type: ignore[arg-type]
    except ValueError as error:
        raise UserError(f"{path}: {name} {list(shape)}: {error}") from error


def _tensor(value: Any) -> Tensor:
    import onnx

    kind = value.type.tensor_type
    try:
        dtype = str(np.dtype(onnx.helper.tensor_dtype_to_np_dtype(kind.elem_type)).name)
    except (KeyError, TypeError, ValueError):
        dtype = "unknown"
    if not kind.HasField("shape"):
        return Tensor(value.name, None, dtype)
    sizes = tuple(d.dim_value if d.dim_value > 0 else DYNAMIC for d in kind.shape.dim)
    return Tensor(value.name, sizes, dtype)


def _list(tensors: Sequence[Tensor]) -> str:
    shown = [str(t) for t in tensors[:MAX_TENSORS_LISTED]]
    if len(tensors) > MAX_TENSORS_LISTED:
        shown.append(f"and {len(tensors) - MAX_TENSORS_LISTED} more")
    return ", ".join(shown) or "none"


def _set_shape(value: Any, shape: Sequence[int]) -> None:
    dims = value.type.tensor_type.shape
    del dims.dim[:]
    for size in shape:
        dims.dim.add().dim_value = int(size)


def _rename_value(graph: Any, old: str, new: str) -> None:
    for node in graph.node:
        for names in (node.input, node.output):
            for k, name in enumerate(names):
                if name == old:
                    names[k] = new


def _tensors(graph: Any) -> Iterator[Any]:
    """All tensors with values of a graph and its subgraphs."""
    yield from graph.initializer
    for sparse in graph.sparse_initializer:
        yield sparse.values
        yield sparse.indices
    for node in graph.node:
        yield from _node_tensors(node)


def _node_tensors(node: Any) -> Iterator[Any]:
    for attribute in node.attribute:
        yield attribute.t
        yield from attribute.tensors
        for sparse in (attribute.sparse_tensor, *attribute.sparse_tensors):
            yield sparse.values
            yield sparse.indices
        if attribute.HasField("g"):
            yield from _tensors(attribute.g)
        for graph in attribute.graphs:
            yield from _tensors(graph)


def _refuse_external(path: Path, node: Any) -> None:
    import onnx

    for tensor in _node_tensors(node):
        if tensor.data_location == onnx.TensorProto.EXTERNAL or tensor.external_data:
            raise UserError(f"{path}: its weights are in other files (external data)")
