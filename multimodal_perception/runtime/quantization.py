"""Post-training int8 quantisation of a card's ONNX model; activation ranges from recorded frames."""

from __future__ import annotations

import itertools
import logging
import tempfile
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from multimodal_perception.configuration import UserError
from multimodal_perception.runtime.card import ModelCard
from multimodal_perception.runtime.engine import Arrays
from multimodal_perception.runtime.precision import SOURCE_KEY


class NothingToQuantiseError(UserError):
    """A network has no 2D convolution, so that int8 would change nothing."""


def quantize_int8(card: ModelCard, frames: Iterable[Arrays]) -> bytes:
    """Return the card's ONNX model with its 2D convolutions in int8, calibrated on `frames`.

    Quantisation is symmetric: weights per channel, activations per tensor by their minimum and maximum
    over the frames. Biases stay in float, as TensorRT requires. All other layers stay in float32.

    frames: network inputs, keyed by the card's names. Raises UserError if there are no frames or no
    layer can be quantised.
    """
    import onnx
    from onnxruntime.quantization import (
        CalibrationDataReader,
        QuantFormat,
        QuantType,
        quantize_static,
    )
    from onnxruntime.quantization.shape_inference import quant_pre_process

    iterator = (card.to_onnx_names(arrays) for arrays in frames)
    first = next(iterator, None)
    if first is None:
        raise UserError("calibration: no frames")

    class Reader(CalibrationDataReader):
        def __init__(self) -> None:
            self.frames = itertools.chain([first], iterator)

        def get_next(self) -> Arrays | None:
            return next(self.frames, None)

    with tempfile.TemporaryDirectory() as folder:
        prepared, result = Path(folder) / "prepared.onnx", Path(folder) / "int8.onnx"
        source = Path(folder) / "source.onnx"
        source.write_bytes(card.read_file("onnx"))
        quant_pre_process(str(source), str(prepared), skip_symbolic_shape=True)
        graph = onnx.load(prepared).graph
        kernels_2d = {w.name for w in graph.initializer if len(w.dims) == 4}
        layers = [n.name for n in graph.node if n.op_type == "Conv" and n.input[1] in kernels_2d]
        if not layers:
            raise NothingToQuantiseError(
                f"{card.source}: the network has no 2D convolution to quantise"
            )
        root_logger = logging.getLogger("root")
        level = root_logger.level
        root_logger.setLevel(logging.ERROR)  # the library logs its recommendations there
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
                    # Keep outputs in float32: only the inputs of convolutions are quantised.
                    "OpTypesToExcludeOutputQuantization": ["Conv"],
                },
            )
        finally:
            root_logger.setLevel(level)
        model = onnx.load(result)
    assert card.onnx is not None
    model.metadata_props.add(key=SOURCE_KEY, value=card.onnx.sha256)
    return bytes(model.SerializeToString())


def output_differences(card: ModelCard, other: bytes, frames: Iterable[Arrays]) -> dict[str, float]:
    """Compare another version of a card's ONNX model with the original on the CPU, for each output.

    frames: network inputs, keyed by the card's names. Returns the mean absolute difference relative
    to the mean magnitude; for integers, the fraction of values that differ.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    sessions = [
        onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
        for content in (card.read_file("onnx"), other)
    ]
    outputs = list(card.with_onnx_names().outputs)
    difference, magnitude = np.zeros(len(outputs)), np.zeros(len(outputs))
    for arrays in frames:
        expected, actual = (s.run(outputs, card.to_onnx_names(arrays)) for s in sessions)
        for k, (a, b) in enumerate(zip(expected, actual, strict=True)):
            if a.dtype.kind == "f":
                difference[k] += np.abs(a.astype(np.float64) - b).sum()
                magnitude[k] += np.abs(a.astype(np.float64)).sum()
            else:
                difference[k] += np.count_nonzero(a != b)
                magnitude[k] += a.size
    relative = difference / np.maximum(magnitude, 1e-12)
    return dict(zip(card.outputs, relative.tolist(), strict=True))
