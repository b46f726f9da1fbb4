"""ONNX Runtime backend: on the CPU, or with CUDA or TensorRT if the installed wheel has them."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
from numpy.typing import NDArray

from multimodal_perception.runtime.card import ModelCard, TensorSpec
from multimodal_perception.runtime.engine import Arrays, EngineError
from multimodal_perception.runtime.precision import calibrated_model
from multimodal_perception.runtime.settings import Precision, RuntimeConfig

DTYPES = {
    "tensor(float)": "float32",
    "tensor(float16)": "float16",
    "tensor(int32)": "int32",
    "tensor(int64)": "int64",
    "tensor(uint8)": "uint8",
    "tensor(bool)": "bool",
}


class OnnxRuntimeBackend:
    """One session. Raises EngineError if the ONNX model cannot be run or does not match the card."""

    name = "onnxruntime"

    def __init__(self, card: ModelCard, config: RuntimeConfig) -> None:
        try:
            import onnxruntime
        except ImportError as error:
            raise EngineError(f"not installed ({error})") from error
        options = onnxruntime.SessionOptions()
        # Threads that spin after a run would slow down other code, including other sessions.
        options.add_session_config_entry("session.force_spinning_stop", "1")
        options.intra_op_num_threads = config.threads or available_cores()
        options.log_severity_level = 3  # errors; open_engine logs unavailable providers
        providers = choose_providers(onnxruntime.get_available_providers(), config)
        self.precision: Precision = config.engine_precision
        if self.precision not in ("fp32", "int8") and len(providers) == 1:
            raise EngineError(f"{self.precision} is not supported on the CPU; allowed: fp32, int8")
        content = self._content(card, config)
        try:
            self._session = onnxruntime.InferenceSession(content, options, providers=providers)
        except Exception as error:  # its exceptions share no base class
            raise EngineError(f"cannot load the ONNX model of {card.source}: {error}") from error
        used = self._session.get_providers()[0]
        self.device = "cpu" if used == "CPUExecutionProvider" else f"cuda:{config.gpu}"
        if config.device == "cuda" and self.device == "cpu":
            raise EngineError("no working CUDA provider")
        _check(card.source, "input", card.inputs, self._session.get_inputs())
        _check(card.source, "output", card.outputs, self._session.get_outputs())
        self._outputs = list(card.outputs)

    def _content(self, card: ModelCard, config: RuntimeConfig) -> bytes:
        """The ONNX model. Providers convert it to fp16 themselves; int8 needs a calibrated model."""
        return (
            calibrated_model(card, config) if self.precision == "int8" else card.read_file("onnx")
        )

    def infer(self, arrays: Arrays) -> dict[str, NDArray[Any]]:
        results = self._session.run(self._outputs, dict(arrays))
        return dict(zip(self._outputs, results, strict=True))


def choose_providers(available: list[str], config: RuntimeConfig) -> list[Any]:
    """Select execution providers, best first: GPU providers if allowed, and always the CPU."""
    providers: list[Any] = []
    if config.device != "cpu":
        if "TensorrtExecutionProvider" in available and "tensorrt" in config.engines:
            cache = str(config.cache_folder / "onnxruntime")
            settings = {
                "device_id": config.gpu,
                "trt_fp16_enable": config.precision == "fp16",
                "trt_engine_cache_enable": True,
                "trt_engine_cache_path": cache,
            }
            providers.append(("TensorrtExecutionProvider", settings))
        if "CUDAExecutionProvider" in available:
            providers.append(("CUDAExecutionProvider", {"device_id": config.gpu}))
    return [*providers, "CPUExecutionProvider"]


def has_gpu_provider(config: RuntimeConfig) -> bool:
    """Whether the installed wheel has a GPU provider that this configuration allows."""
    try:
        import onnxruntime
    except ImportError:
        return False
    return len(choose_providers(onnxruntime.get_available_providers(), config)) > 1


def available_cores() -> int:
    """Number of cores that this process may use, which taskset or a container may restrict."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _check(source: str, kind: str, specs: dict[str, TensorSpec], nodes: Any) -> None:
    """Compare inputs or outputs of the ONNX model with the card. Raises EngineError if they differ."""
    names = [node.name for node in nodes]
    if sorted(names) != sorted(specs):
        raise EngineError(
            f"{kind}s of the ONNX model are {names}, those in {source} are {list(specs)}"
        )
    for node in nodes:
        spec, dtype = specs[node.name], DTYPES.get(node.type, node.type)
        if tuple(node.shape) != spec.shape or np.dtype(spec.dtype).name != dtype:
            raise EngineError(
                f"{kind} {node.name} of the ONNX model is {list(node.shape)} {dtype}, "
                f"in {source} it is {list(spec.shape)} {spec.dtype}"
            )
