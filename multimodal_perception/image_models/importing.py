"""Import of an ONNX image network: static shapes, a test run, and the model folder."""

from __future__ import annotations

import re
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from multimodal_perception.configuration import UserError
from multimodal_perception.image_models.onnx_file import (
    DYNAMIC,
    MAX_ROWS,
    OnnxFile,
    Tensor,
    image_input,
    input_size,
    read_onnx,
    specification,
)
from multimodal_perception.image_models.preprocessing import Preprocessing, prepare_image
from multimodal_perception.image_models.test_run import run_once
from multimodal_perception.runtime.card import ModelCard, TensorSpec, load_card, write_card

MAX_BATCH = 64
ONNX_NAME = "model.onnx"


@dataclass(frozen=True)
class NetworkFile:
    """An ONNX network with static input shapes.

    file: the parsed and changed file. input: the tensor with the image. spec: its sizes and type.
    layout: NCHW or NHWC. size: height and width of the image.
    """

    file: OnnxFile
    input: Tensor
    spec: TensorSpec
    layout: str
    size: tuple[int, int]

    @property
    def batch(self) -> int:
        """Number of images in one run."""
        return self.spec.shape[0]


def open_network(
    path: Path, size: tuple[int, int] | None, batch: int | None, layout: str
) -> NetworkFile:
    """Read an ONNX file and give its inputs static shapes.

    size: height and width of the image, where the file leaves them open. batch: number of images in one
    run, where the file leaves it open; 1 by default. layout: NCHW, NHWC, or "" to derive it. Raises
    UserError that shows the inputs and outputs of an unsuitable file.
    """
    file = read_onnx(path)
    tensor, layout = image_input(file, layout)
    rows, columns = input_size(file, tensor, layout, size)
    assert tensor.shape is not None
    fixed = tensor.shape[0]
    if batch is not None and fixed not in (DYNAMIC, batch):
        raise file.error(f"--batch {batch}: the file has a fixed batch size of {fixed}")
    count = fixed if fixed != DYNAMIC else (batch or 1)
    if not 1 <= count <= MAX_BATCH:
        raise file.error(f"batch size {count}: allowed: 1 to {MAX_BATCH}")
    shape = (count, 3, rows, columns) if layout == "NCHW" else (count, rows, columns, 3)
    _replace_size_inputs(file, tensor, (rows, columns), count)
    spec = specification(tensor.name, shape, tensor.dtype, path)
    file.fix_input(tensor.name, shape)
    return NetworkFile(file, tensor, spec, layout, (rows, columns))


def _replace_size_inputs(file: OnnxFile, image: Tensor, size: tuple[int, int], batch: int) -> None:
    """Replace the inputs with the size of the image that some exports have by constants."""
    for tensor in file.inputs:
        if tensor.name == image.name:
            continue
        values = {
            "orig_target_sizes": size[::-1],  # width, height (RT-DETR)
            "im_shape": size,  # height, width (PaddleDetection)
            "scale_factor": (1, 1),
        }.get(tensor.name)
        if values is None or tensor.dtype not in ("float32", "int64", "int32"):
            raise file.error(
                f"input {tensor.name} is not supported: only the image may be an input"
            )
        file.make_constant(tensor.name, np.array([values] * batch, tensor.dtype))


def test_outputs(
    network: NetworkFile, rgb: NDArray[np.uint8], preprocessing: Preprocessing
) -> dict[str, NDArray[Any]]:
    """Outputs of the network for an image (H, W, 3) in RGB order, in every place of the batch."""
    values, _ = prepare_image(rgb, network.spec, preprocessing)
    batch = np.repeat(values, network.batch, axis=0)
    return run_once(network.file.to_bytes(), {network.input.name: batch}, str(network.file.path))


def fix_outputs(network: NetworkFile, outputs: Mapping[str, NDArray[Any]]) -> dict[str, TensorSpec]:
    """Declare the shapes of the outputs, as a test run gave them, and return their specifications.

    Outputs whose number of rows depends on the image (a suppression in the network) are padded with
    zeros to MAX_ROWS rows.
    """
    file = network.file
    dependent = _data_dependent_axes(network, outputs)
    specs = {}
    shapes: dict[str, tuple[int, ...]] = {}
    for name, values in outputs.items():
        shape = list(values.shape)
        if name in dependent:
            shape[dependent[name]] = MAX_ROWS
            file.pad_rows(name, dependent[name], shape)
        shapes[name] = tuple(shape)
        specs[name] = specification(f"output {name}", shape, str(values.dtype), file.path)
    file.set_output_shapes(shapes)
    return specs


def _data_dependent_axes(
    network: NetworkFile, outputs: Mapping[str, NDArray[Any]]
) -> dict[str, int]:
    """The axis whose size depends on the image, by name of the output.

    An axis depends on the image if shape inference does not give its size, and if it is the number of
    rows of a table. A size that inference only fails to find is the same for a blank image.
    """
    import onnx

    try:
        inferred = onnx.shape_inference.infer_shapes(network.file.model, data_prop=True)
    except Exception:  # operators of other domains: only the blank image is compared
        inferred = network.file.model
    blank = run_once(
        network.file.to_bytes(),
        {network.input.name: np.zeros(network.spec.shape, network.spec.dtype)},
        str(network.file.path),
    )
    result = {}
    nms = _has_suppression(network.file.model.graph)
    for value in inferred.graph.output:
        name = value.name
        dims = [d.dim_value for d in value.type.tensor_type.shape.dim]
        actual, other = outputs[name].shape, blank[name].shape
        if len(dims) != len(actual):
            dims = [0] * len(actual)
        if len(actual) != len(other):
            raise UserError(f"{network.file.path}: output {name} changes its number of axes")
        axes = [
            k
            for k in range(len(actual))
            if actual[k] != other[k] or (nms and dims[k] == 0 and k == _row_axis(actual))
        ]
        if len(axes) > 1:
            raise UserError(
                f"{network.file.path}: several sizes of output {name} depend on the image"
            )
        if axes:
            result[name] = axes[0]
    return result


def _row_axis(shape: tuple[int, ...]) -> int:
    """Axis of the rows: the last one of lists, the last but one of tables of boxes."""
    return len(shape) - 1 if len(shape) < 2 or shape[-1] not in (4, 5, 6, 7) else len(shape) - 2


def _has_suppression(graph: Any) -> bool:
    """Whether the network selects boxes, so that the number of its rows depends on the image."""
    return any(
        node.op_type in ("NonMaxSuppression", "NonZero", "Loop", "If") for node in graph.node
    )


def model_name(folder: Path) -> str:
    """Name of the model in a folder."""
    return re.sub(r"[^A-Za-z0-9_.-]", "_", folder.resolve().name) or "model"


def write_model_folder(folder: Path, network: NetworkFile, card: ModelCard) -> ModelCard:
    """Write the ONNX file and the card to a new folder. Raises UserError if the folder is not empty."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f"{folder}: is not an empty folder")
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}_") as temporary:
            (Path(temporary) / ONNX_NAME).write_bytes(network.file.to_bytes())
            write_card(temporary, card, onnx=ONNX_NAME)
            folder.mkdir(exist_ok=True)
            for file in Path(temporary).iterdir():
                shutil.move(str(file), str(folder / file.name))
    except OSError as error:
        raise UserError(f"{folder}: {error.strerror or error}") from error
    return load_card(folder)
