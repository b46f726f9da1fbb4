"""ONNX Runtime: the CPU, and CUDA or its TensorRT provider where the installed wheel has them."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
from numpy.typing import NDArray

from multimodal_perception.runtime.card import ModelCard, TensorSpec
from multimodal_perception.runtime.engine import Arrays, EngineError
from multimodal_perception.runtime.settings import RuntimeConfig

TYPES = {
    "tensor(float)": "float32",
    "tensor(float16)": "float16",
    "tensor(int32)": "int32",
    "tensor(int64)": "int64",
    "tensor(uint8)": "uint8",
    "tensor(bool)": "bool",
}


class OnnxRuntimeBackend:
    """One session. Raises EngineError where the ONNX cannot be run or is not what the card says."""

    name = "onnxruntime"

    def __init__(self, card: ModelCard, config: RuntimeConfig) -> None:
        try:
            import onnxruntime
        except ImportError as error:
            raise EngineError(f"not installed ({error})") from error
        options = onnxruntime.SessionOptions()
        # Threads that wait busily after a run would slow what follows it, another session included.
        options.add_session_config_entry("session.force_spinning_stop", "1")
        options.intra_op_num_threads = config.threads or available_cores()
        options.log_severity_level = 3  # errors; what is missing is told by open_engine
        providers = choose_providers(onnxruntime.get_available_providers(), config)
        content = card.read_file("onnx")
        try:
            self._session = onnxruntime.InferenceSession(content, options, providers=providers)
        except Exception as error:  # its exceptions share no base class
            raise EngineError(f"cannot load {card.source}'s ONNX: {error}") from error
        used = self._session.get_providers()[0]
        self.device = "cpu" if used == "CPUExecutionProvider" else f"cuda:{config.gpu}"
        if config.device == "cuda" and self.device == "cpu":
            raise EngineError("has no CUDA provider that works here")
        _check(card.source, "input", card.inputs, self._session.get_inputs())
        _check(card.source, "output", card.outputs, self._session.get_outputs())
        self._outputs = list(card.outputs)

    def infer(self, arrays: Arrays) -> dict[str, NDArray[Any]]:
        results = self._session.run(self._outputs, dict(arrays))
        return dict(zip(self._outputs, results, strict=True))


def choose_providers(available: list[str], config: RuntimeConfig) -> list[Any]:
    """Execution providers, best first: the GPU's where wanted and there, the CPU's always."""
    providers: list[Any] = []
    if config.device != "cpu":
        if "TensorrtExecutionProvider" in available and "tensorrt" in config.order:
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
    """Whether the installed wheel would try a GPU."""
    try:
        import onnxruntime
    except ImportError:
        return False
    return len(choose_providers(onnxruntime.get_available_providers(), config)) > 1


def available_cores() -> int:
    """Cores that this process may use; fewer than the machine has under taskset or in a container."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _check(source: str, kind: str, specs: dict[str, TensorSpec], found: Any) -> None:
    """The ONNX's inputs or outputs are those of the card. Raises EngineError naming what is not."""
    names = [node.name for node in found]
    if sorted(names) != sorted(specs):
        raise EngineError(f"the ONNX has {kind}s {names}, {source} says {list(specs)}")
    for node in found:
        spec, dtype = specs[node.name], TYPES.get(node.type, node.type)
        if tuple(node.shape) != spec.shape or np.dtype(spec.dtype).name != dtype:
            raise EngineError(
                f"{kind} {node.name} of the ONNX is {list(node.shape)} {dtype}, "
                f"{source} says {list(spec.shape)} {spec.dtype}"
            )
