"""OpenVINO backend: Intel and AMD CPUs, Intel GPUs and NPUs, with a verified cache of compiled models.

OpenVINO's own model cache (CACHE_DIR) is not used: it does not check its files against the model's hash,
so compiled models are stored in the cache of the TensorRT engines (runtime.cache).
"""

from __future__ import annotations

import importlib
import io
import logging
import threading
from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from multimodal_perception.runtime.cache import EngineCache, EngineKey
from multimodal_perception.runtime.card import ModelCard, TensorSpec
from multimodal_perception.runtime.engine import Arrays, EngineError
from multimodal_perception.runtime.onnxruntime import available_cores
from multimodal_perception.runtime.precision import calibrated_model, source_digest
from multimodal_perception.runtime.settings import Precision, RuntimeConfig

log = logging.getLogger(__name__)
MIN_VERSION = (2024, 0)
LAYOUT_VERSION = "1"  # of _read_model, part of the cache's key
# The CPU computes convolutions with channels last. Its conversion of an output with many channels to
# channels first takes up to a quarter of a network's time, so that such outputs are transposed here.
MIN_TRANSPOSED_CHANNELS = 16
HINTS: dict[Precision, str] = {"fp32": "f32", "bf16": "bf16", "fp16": "f16", "int8": "f32"}
# OpenVINO's name of a device's ability to compute at a precision.
CAPABILITIES: dict[Precision, str] = {
    "fp32": "FP32",
    "bf16": "BF16",
    "fp16": "FP16",
    "int8": "INT8",
}
DTYPES = {
    "f32": "float32",
    "f16": "float16",
    "i32": "int32",
    "i64": "int64",
    "u8": "uint8",
    "boolean": "bool",
}


def load_library() -> Any:
    """Import OpenVINO. Raises EngineError if it is missing, cannot be loaded or is too old."""
    try:
        library = importlib.import_module("openvino")
        version = str(library.__version__)
        numbers = tuple(int(part) for part in version.split("-")[0].split(".")[:2])
    except ImportError as error:
        raise EngineError(f"not installed ({error})") from error
    except (OSError, AttributeError, ValueError) as error:
        raise EngineError(f"cannot be loaded ({error})") from error
    if numbers < MIN_VERSION:
        raise EngineError(f"version {version} is below {'.'.join(map(str, MIN_VERSION))}")
    return library


def devices() -> list[str]:
    """Names of the devices that OpenVINO finds: "CPU", "GPU", "NPU", ...; empty without OpenVINO."""
    try:
        return [str(name) for name in load_library().Core().available_devices]
    except (EngineError, RuntimeError):
        return []


def device_precisions(device: str) -> list[Precision]:
    """Precisions that a device computes with, except int8; empty if it cannot be used."""
    try:
        capabilities = load_library().Core().get_property(device, "OPTIMIZATION_CAPABILITIES")
    except (EngineError, RuntimeError):
        return []
    names: tuple[Precision, ...] = ("fp32", "bf16", "fp16")
    return [name for name in names if CAPABILITIES[name] in capabilities]


class OpenVINOBackend:
    """One compiled model on one device. Raises EngineError if it cannot be compiled or loaded.

    precision: fp32, bf16, fp16 or int8. For int8, the model with quantised convolutions is compiled, and
    the other layers run in the fastest precision of the device.
    """

    name = "openvino"

    def __init__(self, card: ModelCard, config: RuntimeConfig) -> None:
        if config.device == "cuda":
            raise EngineError("does not run on CUDA devices, but device is cuda")
        library = load_library()
        self._device = "CPU" if config.openvino_device == "auto" else config.openvino_device
        if config.device == "cpu" and self._device != "CPU":
            raise EngineError(f"device is cpu, but openvino_device is {self._device}")
        self.precision: Precision = config.engine_precision
        self._threads = config.threads or available_cores()
        self._inputs, self._outputs = list(card.inputs), list(card.outputs)
        self._core = library.Core()
        self._check_device()
        full_name = str(self._core.get_property(self._device, "FULL_DEVICE_NAME"))
        self.device = f"{self._device.lower()} ({full_name})"
        self._settings = self._device_settings()
        self._transposed = self._transposed_outputs(card)
        key = EngineKey(
            onnx=source_digest(card, config),
            library=self.name,
            version=str(library.__version__),
            device=f"{self._device} {full_name} {self._capabilities()}",
            capability="",
            precision=self.precision,
            profile="; ".join(
                f"{k} {v}" for k, v in sorted({**self._settings, "layout": LAYOUT_VERSION}.items())
            ),
        )
        content = (
            calibrated_model(card, config) if self.precision == "int8" else card.read_file("onnx")
        )
        self._model = self._load(card, content, key, config)
        self._check(card.source, "input", card.inputs, self._model.inputs)
        outputs = self._model.outputs
        self._check(card.source, "output", card.outputs, outputs, self._transposed)
        self._parallel: Any = None  # compiled at the first infer_many() with several frames
        self._content = content
        self._requests = [self._model.create_infer_request()]
        self._lock = threading.Lock()  # a request holds one frame

    def infer(self, arrays: Arrays) -> dict[str, NDArray[Any]]:
        with self._lock:
            request = self._requests[0]
            request.infer(dict(arrays), share_inputs=True)
            return self._results(request)

    def infer_many(self, frames: Sequence[Arrays]) -> list[dict[str, NDArray[Any]]]:
        """Run several frames as asynchronous requests, which the device processes in parallel."""
        if len(frames) < 2:
            return [self.infer(arrays) for arrays in frames]
        with self._lock:
            requests = self._parallel_requests(len(frames))
            started = list(zip(requests, frames, strict=True))
            for request, arrays in started:
                request.start_async(dict(arrays), share_inputs=True)
            for request in requests:
                request.wait()
            return [self._results(request) for request in requests]

    def _parallel_requests(self, count: int) -> list[Any]:
        """Requests of a model with one stream for each frame that the CPU can process at once."""
        if self._parallel is None:
            settings = {**self._settings, "PERFORMANCE_HINT": "THROUGHPUT"}
            if self._device == "CPU":
                settings["NUM_STREAMS"] = str(min(self._threads, count))
            model = self._read_model(self._content)
            self._parallel = self._core.compile_model(model, self._device, settings), []
        model, requests = self._parallel
        while len(requests) < count:
            requests.append(model.create_infer_request())
        return list(requests[:count])

    def _results(self, request: Any) -> dict[str, NDArray[Any]]:
        # Copies: the next run overwrites the request's tensors.
        results = {}
        for name in self._outputs:
            data = request.get_tensor(name).data
            if name in self._transposed:
                results[name] = channels_first(data)
            else:
                results[name] = np.array(data)
        return results

    def _transposed_outputs(self, card: ModelCard) -> frozenset[str]:
        """Names of the outputs that the compiled model gives with channels last."""
        if self._device != "CPU":
            return frozenset()
        return frozenset(
            name
            for name, spec in card.outputs.items()
            if len(spec.shape) == 4
            and spec.dtype == "float32"
            and spec.shape[0] == 1
            and spec.shape[1] >= MIN_TRANSPOSED_CHANNELS
        )

    def _read_model(self, content: bytes) -> Any:
        """Parse an ONNX model; the outputs in `_transposed` get channels last."""
        model = self._core.read_model(content)
        names = {name for port in model.outputs for name in port.names}
        chosen = self._transposed & names
        if not chosen:
            return model
        library = importlib.import_module("openvino")
        steps = importlib.import_module("openvino.preprocess").PrePostProcessor(model)
        for name in sorted(chosen):
            steps.output(name).model().set_layout(library.Layout("NCHW"))
            steps.output(name).tensor().set_layout(library.Layout("NHWC"))
        return steps.build()

    def _capabilities(self) -> str:
        found = self._core.get_property(self._device, "OPTIMIZATION_CAPABILITIES")
        return " ".join(sorted(map(str, found)))

    def _check_device(self) -> None:
        found = [str(name) for name in self._core.available_devices]
        if self._device not in found and f"{self._device}.0" not in found:
            names = ", ".join(found) or "none"
            raise EngineError(f"no device {self._device}; OpenVINO finds: {names}")
        if self.precision != "fp32" and CAPABILITIES[self.precision] not in self._capabilities():
            raise EngineError(f"{self._device} does not compute in {self.precision}")

    def _device_settings(self) -> dict[str, str]:
        hint = HINTS[self.precision]
        if self.precision == "int8":
            available = self._capabilities()
            hint = "bf16" if "BF16" in available else "f16" if "FP16" in available else "f32"
        settings = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": hint}
        if self._device == "CPU":
            settings["INFERENCE_NUM_THREADS"] = str(self._threads)
        return settings

    def _load(self, card: ModelCard, content: bytes, key: EngineKey, config: RuntimeConfig) -> Any:
        """The compiled model from the cache; compiled and cached if needed. Raises EngineError."""
        compiled = None

        def build() -> bytes:
            nonlocal compiled
            try:
                model = self._read_model(content)
                compiled = self._core.compile_model(model, self._device, self._settings)
                return bytes(_exported(compiled))
            except Exception as error:  # its exceptions share no base class
                if compiled is not None:  # a device that cannot export runs without a cache
                    log.info("%s: openvino: not cached: %s", card.name, _first_line(error))
                    return b""
                raise EngineError(f"cannot compile {card.source}: {_first_line(error)}") from error

        cache = EngineCache(config.cache_folder)
        plan = cache.get(card.name, key, build)
        if compiled is None and plan:
            try:
                compiled = self._core.import_model(io.BytesIO(plan), self._device, self._settings)
            except Exception as error:
                log.warning("%s: openvino: cached model refused: %s", card.name, _first_line(error))
                cache.get(card.name, key, build, rebuild=True)
        elif compiled is None:
            build()
        return compiled

    @staticmethod
    def _check(
        source: str,
        kind: str,
        specs: dict[str, TensorSpec],
        ports: Sequence[Any],
        transposed: frozenset[str] = frozenset(),
    ) -> None:
        """Compare the model's tensors with the card. Raises EngineError if they differ."""
        found = {}
        for port in ports:
            dtype = DTYPES.get(port.element_type.get_type_name(), port.element_type.get_type_name())
            shape = port.get_partial_shape()
            sizes: Any = tuple(port.shape) if shape.is_static else str(shape)
            for name in port.names:
                if name in transposed and shape.is_static:
                    sizes = (sizes[0], sizes[3], sizes[1], sizes[2])
                found[name] = (sizes, dtype)
        for name, spec in specs.items():
            if found.get(name) != (spec.shape, spec.dtype):
                raise EngineError(
                    f"{kind} {name} of the ONNX model is {found.get(name, 'absent')}, "
                    f"in {source} it is {list(spec.shape)} {spec.dtype}"
                )
        if len(ports) != len(specs):
            raise EngineError(
                f"the ONNX model has {len(ports)} {kind}s, {source} names {len(specs)}"
            )


def channels_first(array: NDArray[Any]) -> NDArray[Any]:
    """Copy (1, H, W, C) to a contiguous (1, C, H, W); OpenCV's transpose is faster than numpy's."""
    _, rows, columns, channels = array.shape
    flat = cv2.transpose(array.reshape(rows * columns, channels))
    return np.asarray(flat).reshape(1, channels, rows, columns)


def _exported(model: Any) -> bytes:
    exported = model.export_model()
    return bytes(exported.getvalue() if isinstance(exported, io.BytesIO) else exported)


def _first_line(error: Exception) -> str:
    """The last non-empty line of an OpenVINO error, which states the cause."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__
