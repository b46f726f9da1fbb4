"""TensorRT backend: builds strongly typed engines from ONNX models and runs them through a CUDA graph.

This module serves both `tensorrt` (Jetson, data centre) and `tensorrt_rtx` (desktop GPUs), which have
the same API. tensorrt_rtx builds without a GPU for any compute capability that it supports, and its
engines run on every GPU of that capability. A tensorrt engine runs only on the GPU model on which it
was built.
"""

from __future__ import annotations

import importlib
import logging
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from multimodal_perception.runtime.cache import EngineCache, EngineKey
from multimodal_perception.runtime.card import ModelCard, TensorSpec
from multimodal_perception.runtime.cuda import Gpu
from multimodal_perception.runtime.engine import Arrays, EngineError
from multimodal_perception.runtime.precision import model_at_precision, source_digest
from multimodal_perception.runtime.settings import RuntimeConfig

log = logging.getLogger(__name__)
LibraryName = Literal["tensorrt", "tensorrt_rtx"]
# Called during a build with phase, steps done and total steps.
Progress = Callable[[str, int, int], None]
MIN_VERSION = 10
ANY_GPU = "any"
DTYPES = {
    "FLOAT": "float32",
    "HALF": "float16",
    "INT32": "int32",
    "INT64": "int64",
    "UINT8": "uint8",
    "BOOL": "bool",
}


@dataclass(frozen=True)
class Target:
    """GPU to build for: its name (or ANY_GPU) and compute capability, such as (8, 9)."""

    gpu: str
    capability: tuple[int, int]

    @property
    def text(self) -> str:
        return f"{self.capability[0]}.{self.capability[1]}"


class Library:
    """One of the two libraries, loaded and with its version checked. Its messages are logged."""

    def __init__(self, name: LibraryName) -> None:
        try:
            self.trt: Any = importlib.import_module(name)
        except ImportError as error:
            raise EngineError(f"not installed ({error})") from error
        except OSError as error:  # the Python package is installed, its shared libraries are not
            raise EngineError(f"cannot be loaded ({error})") from error
        self.name = name
        self.version = str(self.trt.__version__)
        # TensorRT-RTX has its own version numbers from 1 on; its API is that of TensorRT 10.
        if name == "tensorrt" and int(self.version.split(".")[0]) < MIN_VERSION:
            raise EngineError(f"version {self.version} is below {MIN_VERSION}")
        self.logger = _logger(self.trt)

    def target(self, gpu: Gpu) -> Target:
        """Return the build target of an engine for this GPU."""
        return Target(ANY_GPU if self.name == "tensorrt_rtx" else gpu.name, gpu.capability)

    def error(self, message: str) -> EngineError:
        """Return an error with this message and the library's last error message."""
        text = self.logger.take_error()
        return EngineError(f"{message}: {text}" if text else message)

    def capabilities(self) -> list[tuple[int, int]]:
        """Return the compute capabilities to build for without a GPU; empty for tensorrt."""
        names = getattr(getattr(self.trt, "ComputeCapability", None), "__members__", {})
        digits = sorted(int(n[2:]) for n in names if n.startswith("SM"))
        return [divmod(d, 10) for d in digits]


def plan_for(
    library: Library,
    card: ModelCard,
    config: RuntimeConfig,
    target: Target,
    progress: Progress | None = None,
    rebuild: bool = False,
) -> bytes:
    """Return the serialized engine of a card for a GPU from the cache; build and cache it if needed.

    Raises EngineError if it cannot be built, or if config.build forbids building; UserError if the
    card's ONNX file is missing or damaged.
    """
    card = card.with_onnx_names()
    key = engine_key(library, card, config, target)

    def build() -> bytes:
        if not config.build:
            command = f"multimodal-perception export engine {card.name}"
            raise EngineError(f"no engine in the cache and build is off; build one with: {command}")
        return build_plan(library, model_at_precision(card, config), card, config, target, progress)

    return EngineCache(config.cache_folder).get(card.name, key, build, rebuild)


def engine_key(
    library: Library, card: ModelCard, config: RuntimeConfig, target: Target
) -> EngineKey:
    """Return the cache key of a card's engine."""
    shapes = [f"{n} {'x'.join(map(str, s.shape))} {s.dtype}" for n, s in card.inputs.items()]
    return EngineKey(
        onnx=source_digest(card, config),
        library=library.name,
        version=library.version,
        device=target.gpu,
        capability=target.text,
        precision=config.engine_precision,
        profile=f"{'; '.join(shapes)}; workspace {config.workspace_mib}; dla {config.dla_core}",
    )


def build_plan(
    library: Library,
    model: bytes,
    card: ModelCard,
    config: RuntimeConfig,
    target: Target,
    progress: Progress | None = None,
) -> bytes:
    """Parse an ONNX model and build its engine. Raises EngineError with the library's message."""
    trt = library.trt
    library.logger.take_error()
    builder = trt.Builder(library.logger)
    # Strongly typed: the precisions are those of the ONNX model. TensorRT 11 supports nothing else.
    typed = getattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED", None)
    network = builder.create_network(0 if typed is None else 1 << int(typed))
    parser = trt.OnnxParser(network, library.logger)
    if not parser.parse(model):
        faults = "; ".join(str(parser.get_error(k)) for k in range(parser.num_errors))
        raise EngineError(f"{card.source}: the parser rejects the ONNX model: {faults}")
    _check(card, "input", card.inputs, [network.get_input(k) for k in range(network.num_inputs)])
    outputs = [network.get_output(k) for k in range(network.num_outputs)]
    _check(card, "output", card.outputs, outputs)
    settings = builder.create_builder_config()
    settings.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, config.workspace_mib << 20)
    monitor = _monitor(trt, progress or log_progress(card.name))
    settings.progress_monitor = monitor
    if library.capabilities():
        _set_capability(library, settings, target)
    if config.dla_core >= 0:
        _set_dla(library, builder, settings, config)
    plan = builder.build_serialized_network(network, settings)
    if monitor.interrupted is not None:
        raise monitor.interrupted
    if plan is None:
        raise library.error(f"{card.source}: {library.name} cannot build it")
    return bytes(plan)


def _set_capability(library: Library, settings: Any, target: Target) -> None:
    known = library.capabilities()
    if target.capability not in known:
        allowed = ", ".join(f"{a}.{b}" for a, b in known)
        raise EngineError(
            f"{library.name} does not support compute capability {target.text}; allowed: {allowed}"
        )
    settings.num_compute_capabilities = 1
    name = f"SM{target.capability[0]}{target.capability[1]}"
    if not settings.set_compute_capability(getattr(library.trt.ComputeCapability, name), 0):
        raise library.error(f"compute capability {target.text} is rejected")


def _set_dla(library: Library, builder: Any, settings: Any, config: RuntimeConfig) -> None:
    """Run the layers that a DLA core supports on that core, and the others on the GPU."""
    if library.name != "tensorrt" or config.engine_precision == "fp32":
        raise EngineError("dla_core needs the library tensorrt and precision fp16 or int8")
    if config.dla_core >= builder.num_DLA_cores:
        raise EngineError(
            f"dla_core: {config.dla_core}, but the device has {builder.num_DLA_cores} cores"
        )
    settings.default_device_type = library.trt.DeviceType.DLA
    settings.DLA_core = config.dla_core
    settings.set_flag(library.trt.BuilderFlag.GPU_FALLBACK)


def _check(card: ModelCard, kind: str, specs: Mapping[str, TensorSpec], tensors: list[Any]) -> None:
    """Compare the network's tensors with the card. Raises EngineError if they differ."""
    actual = {t.name: (tuple(t.shape), DTYPES.get(t.dtype.name, t.dtype.name)) for t in tensors}
    expected = {name: (spec.shape, spec.dtype) for name, spec in specs.items()}
    for name in sorted(set(actual) | set(expected)):
        if actual.get(name) != expected.get(name):
            raise EngineError(
                f"{kind} {name} of the ONNX model is {_format(actual.get(name))}, "
                f"in {card.source} it is {_format(expected.get(name))}"
            )


def _format(tensor: tuple[tuple[int, ...], str] | None) -> str:
    return "absent" if tensor is None else f"{list(tensor[0])} {tensor[1]}"


class TensorRTBackend:
    """An engine in GPU memory. Raises EngineError if it cannot be built or loaded."""

    def __init__(self, name: LibraryName, card: ModelCard, config: RuntimeConfig) -> None:
        if config.device == "cpu":
            raise EngineError("needs a GPU, but device is cpu")
        self._library = library = Library(name)
        self._gpu = gpu = Gpu(config.gpu)
        self.name: str = name
        self.precision = config.engine_precision
        self.device = f"cuda:{config.gpu} ({gpu.name})"
        plan = plan_for(library, card, config, library.target(gpu))
        self._runtime = library.trt.Runtime(library.logger)
        if config.dla_core >= 0:
            self._runtime.DLA_core = config.dla_core
        self._engine = self._runtime.deserialize_cuda_engine(plan)
        if self._engine is None:
            raise library.error("the engine cannot be loaded")
        self._context = self._engine.create_execution_context()
        if self._context is None:
            raise library.error("cannot create an execution context, possibly out of GPU memory")
        self._inputs, self._outputs = list(card.inputs), list(card.outputs)
        self._host: dict[str, NDArray[Any]] = {}
        self._device: dict[str, int] = {}
        for tensor, spec in {**card.inputs, **card.outputs}.items():
            self._host[tensor] = gpu.pinned_array(spec.shape, spec.dtype)
            self._device[tensor] = gpu.device_memory(self._host[tensor].nbytes)
            if not self._context.set_tensor_address(tensor, self._device[tensor]):
                raise library.error(f"cannot set the address of tensor {tensor}")
        self._graph: int | None = None
        self._capture = config.cuda_graph
        self._lock = threading.Lock()  # buffers and context hold one frame

    def infer(self, arrays: Arrays) -> dict[str, NDArray[Any]]:
        with self._lock:
            self._gpu.activate()
            for name in self._inputs:
                np.copyto(self._host[name], arrays[name])
            if self._graph is not None:
                self._gpu.launch(self._graph)
            else:
                self._enqueue()
            self._gpu.synchronize()
            results = {name: self._host[name].copy() for name in self._outputs}
            if self._capture:
                self._capture_graph()
            return results

    def _enqueue(self) -> None:
        """Enqueue copies to the GPU, the network, and copies back."""
        for name in self._inputs:
            self._gpu.to_device(self._device[name], self._host[name])
        if not self._context.execute_async_v3(self._gpu.stream):
            raise self._library.error("the network could not be enqueued")
        for name in self._outputs:
            self._gpu.to_host(self._host[name], self._device[name])

    def _capture_graph(self) -> None:
        """Capture a CUDA graph, once, after the first run, which TensorRT requires.

        If this fails, the engine keeps running without a graph.
        """
        self._capture = False
        try:
            self._graph = self._gpu.capture(self._enqueue)
        except EngineError as error:
            # Only the text: a log handler that stores the error would keep its frames, and with them
            # the GPU memory, alive.
            log.info("%s: running without a CUDA graph: %s", self.name, str(error))


def log_progress(model: str, every_s: float = 5.0) -> Progress:
    """Return a Progress callback that writes a log line at most every `every_s` seconds."""
    last = time.monotonic()

    def report(phase: str, done: int, steps: int) -> None:
        nonlocal last
        if time.monotonic() - last >= every_s:
            last = time.monotonic()
            log.info("%s: building an engine: %s, %d of %d", model, phase, done, steps)

    return report


def _monitor(trt: Any, progress: Progress) -> Any:
    """Make TensorRT's progress monitor. Ctrl-C during a build aborts the build."""

    class Monitor(trt.IProgressMonitor):
        def __init__(self) -> None:
            super().__init__()
            self.steps: dict[str, int] = {}
            self.interrupted: BaseException | None = None

        def phase_start(self, phase: str, parent: str | None, steps: int) -> None:
            self.steps[phase] = steps
            self._report(phase, 0)

        def step_complete(self, phase: str, step: int) -> bool:
            self._report(phase, step + 1)
            return self.interrupted is None

        def phase_finish(self, phase: str) -> None:
            self._report(phase, self.steps.get(phase, 0))

        def _report(self, phase: str, done: int) -> None:
            try:
                progress(phase, done, self.steps.get(phase, 0))
            except BaseException as error:  # must not propagate through the C++ library
                self.interrupted = error

    return Monitor()


def _logger(trt: Any) -> Any:
    """Make a TensorRT logger that writes to `log` and keeps the last error for EngineError."""
    severity = trt.ILogger.Severity
    errors = (severity.INTERNAL_ERROR, severity.ERROR)

    class Logger(trt.ILogger):
        def __init__(self) -> None:
            super().__init__()
            self.last_error = ""

        def log(self, severity: Any, message: str) -> None:
            if severity in errors:
                self.last_error = message
            log.debug("%s: %s", trt.__name__, message)

        def take_error(self) -> str:
            text, self.last_error = self.last_error, ""
            return text

    return Logger()
