"""Int8: the ranges of activations measured on recorded frames, written into the ONNX."""

from __future__ import annotations

import itertools
import logging
import tempfile
import zipfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from multimodal_perception.configuration import UserError
from multimodal_perception.runtime.architectures import resolve
from multimodal_perception.runtime.card import ModelCard
from multimodal_perception.runtime.engine import Arrays, InputError, check_inputs
from multimodal_perception.runtime.precision import SOURCE_KEY


def recorded_inputs(path: Path, card: ModelCard, limit: int) -> Iterator[Arrays]:
    """What a network takes, of up to `limit` frames spread over a recording.

    path: a bag or dataset, whose frames the architecture prepares; or .npz files (one, or a folder
    of them), a frame each, with an array for each input. Raises UserError.
    """
    files = sorted(path.glob("*.npz")) if path.is_dir() else [path] if path.suffix == ".npz" else []
    frames: Any = files
    if not files:
        from multimodal_perception.datasets.open_dataset import open_dataset

        frames = open_dataset(path)
        prepare = resolve(card, "frame_inputs")(card)
    if not len(frames):
        raise UserError(f"{path}: no frames")
    for index in np.unique(np.linspace(0, len(frames) - 1, limit).astype(int)):
        arrays = _read(files[index]) if files else prepare(frames[int(index)])
        try:
            check_inputs(card.inputs, arrays)
        except InputError as error:
            raise UserError(f"{path}, frame {index}: {error}") from error
        yield card.to_onnx_names(arrays)


def _read(path: Path) -> Arrays:
    try:
        with np.load(path, allow_pickle=False) as content:
            return {name: content[name] for name in content.files}
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        raise UserError(f"{path}: {error}") from error


def quantise(card: ModelCard, frames: Iterable[Arrays]) -> bytes:
    """The card's ONNX with its convolutions over images and grids in int8.

    Symmetric, weights by channel, activations by the least and the greatest value that the frames
    show; biases stay in float, as TensorRT has it. All else stays in single precision.

    Raises UserError where there are no frames or nothing can be quantised.
    """
    import onnx
    from onnxruntime.quantization import (
        CalibrationDataReader,
        QuantFormat,
        QuantType,
        quantize_static,
    )
    from onnxruntime.quantization.shape_inference import quant_pre_process

    rest = iter(frames)
    first = next(rest, None)
    if first is None:
        raise UserError("calibration: no frames")

    class Reader(CalibrationDataReader):
        def __init__(self) -> None:
            self.frames = itertools.chain([first], rest)

        def get_next(self) -> Arrays | None:
            return next(self.frames, None)

    with tempfile.TemporaryDirectory() as folder:
        prepared, result = Path(folder) / "prepared.onnx", Path(folder) / "int8.onnx"
        source = Path(folder) / "source.onnx"
        source.write_bytes(card.read_file("onnx"))
        quant_pre_process(str(source), str(prepared), skip_symbolic_shape=True)
        graph = onnx.load(prepared).graph
        grids = {w.name for w in graph.initializer if len(w.dims) == 4}
        layers = [n.name for n in graph.node if n.op_type == "Conv" and n.input[1] in grids]
        if not layers:
            raise UserError(f"{card.source}: no convolution that could be quantised")
        quietly = logging.getLogger("root")
        level = quietly.level
        quietly.setLevel(logging.ERROR)  # the library writes its advice there
        try:
            quantize_static(
                str(prepared),
                str(result),
                Reader(),
                quant_format=QuantFormat.QDQ,
                op_types_to_quantize=["Conv"],
                nodes_to_quantize=layers,
                per_channel=True,
                activation_type=QuantType.QInt8,
                weight_type=QuantType.QInt8,
                extra_options={
                    "ActivationSymmetric": True,
                    "WeightSymmetric": True,
                    "QuantizeBias": False,
                    "AddQDQPairToWeight": True,
                    # What follows a convolution reads its exact sum; the next one quantises it.
                    "OpTypesToExcludeOutputQuantization": ["Conv"],
                },
            )
        finally:
            quietly.setLevel(level)
        model = onnx.load(result)
    assert card.onnx is not None
    model.metadata_props.add(key=SOURCE_KEY, value=card.onnx.sha256)
    return bytes(model.SerializeToString())


def deviation(card: ModelCard, other: bytes, frames: Iterable[Arrays]) -> dict[str, float]:
    """How far another ONNX of a card is from its own, by output, run on the CPU.

    The mean difference as a share of the mean magnitude; for integers the share that differs.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    sessions = [
        onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
        for content in (card.read_file("onnx"), other)
    ]
    outputs = list(card.as_in_onnx().outputs)
    off, size = np.zeros(len(outputs)), np.zeros(len(outputs))
    for arrays in frames:
        ours, theirs = (s.run(outputs, dict(arrays)) for s in sessions)
        for k, (a, b) in enumerate(zip(ours, theirs, strict=True)):
            if a.dtype.kind == "f":
                off[k] += np.abs(a.astype(np.float64) - b).sum()
                size[k] += np.abs(a.astype(np.float64)).sum()
            else:
                off[k] += np.count_nonzero(a != b)
                size[k] += a.size
    return {n: float(o / max(s, 1e-12)) for n, o, s in zip(card.outputs, off, size, strict=True)}
