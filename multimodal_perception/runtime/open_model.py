"""Open the inference engine of a network, with the other engines as fallback at run time."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

from numpy.typing import NDArray

from multimodal_perception.configuration import UserError
from multimodal_perception.runtime.card import ModelCard, ModelIntegrityError, TensorSpec
from multimodal_perception.runtime.engine import (
    Arrays,
    Backend,
    CheckedEngine,
    Engine,
    EngineError,
    InputError,
    Timings,
)
from multimodal_perception.runtime.onnxruntime import OnnxRuntimeBackend, has_gpu_provider
from multimodal_perception.runtime.openvino import OpenVINOBackend
from multimodal_perception.runtime.selection import Candidate, choose_engines, is_measuring
from multimodal_perception.runtime.settings import EngineName, RuntimeConfig

log = logging.getLogger(__name__)
EngineFactory = Callable[[], Engine]
T = TypeVar("T")
MAX_RETRY_DELAY = 63  # frames without an attempt after repeated failures


def open_engine(card: ModelCard, config: RuntimeConfig | None = None) -> FallbackEngine:
    """Open the engine of a network, warmed up; the other engines are its fallback.

    With config.order "auto", the engines are ranked by a measurement (see runtime.selection); otherwise
    the first engine of config.order that works is used. An engine without the configured precision is
    followed by the same engines in float32. The reason why an engine cannot be used is logged once. With
    device "auto", if ONNX Runtime runs on a GPU, ONNX Runtime on the CPU is added as the last fallback.
    Raises EngineError with all reasons if no engine works, ModelIntegrityError if a file of the model
    was modified, whichever engine would read it.
    """
    config = config or RuntimeConfig()
    _check_files(card)
    if config.automatic and not is_measuring():
        return _measured_engine(card, config)
    factories: dict[str, EngineFactory] = {}
    for precision in dict.fromkeys((config.engine_precision, "fp32")):
        at_precision = dataclasses.replace(config, precision=precision)
        for name in config.engines:
            if precision == "fp32" != config.engine_precision and name.startswith("tensorrt"):
                continue  # building takes minutes; an explicit precision is not replaced by another
            label = name if precision == config.engine_precision else f"{name} {precision}"
            factories[label] = _factory(name, card, at_precision)
    if config.device == "auto" and "onnxruntime" in config.engines and has_gpu_provider(config):
        on_cpu = dataclasses.replace(config, device="cpu", precision="fp32")
        factories["onnxruntime on the CPU"] = _factory("onnxruntime", card, on_cpu)
    return FallbackEngine(card, factories)


def _check_files(card: ModelCard) -> None:
    """Log and raise a ModelIntegrityError."""
    try:
        card.check_files()
    except ModelIntegrityError as error:
        log.error("%s is not used: %s", card.name, error)
        raise


def _measured_engine(card: ModelCard, config: RuntimeConfig) -> FallbackEngine:
    """The engines of a card in the order of their measured times."""
    opened: dict[Candidate, Engine] = {}

    def open_candidate(candidate: Candidate) -> Engine:
        if candidate not in opened:
            opened[candidate] = open_single_engine(
                candidate.engine, card, candidate.configure(config)
            )
        return opened[candidate]

    def factory(candidate: Candidate) -> EngineFactory:
        return lambda: open_candidate(candidate)

    ranking = choose_engines(card, config, open_candidate)
    for candidate in list(opened):
        if candidate != ranking.order[0]:
            del opened[candidate]  # its memory is needed only if it becomes the fallback
    for engine in opened.values():
        engine.timings.clear()
    factories = {candidate.label: factory(candidate) for candidate in ranking.order}
    return FallbackEngine(card, factories, ranking.rejected, ranking.milliseconds)


def open_model(card: ModelCard, config: RuntimeConfig | None = None) -> FallbackEngine:
    """Call open_engine for a model that the user selected. Raises UserError that names the card."""
    try:
        return open_engine(card, config)
    except EngineError as error:
        raise UserError(f"{card.source}: {error}") from error


def open_single_engine(name: EngineName, card: ModelCard, config: RuntimeConfig) -> Engine:
    """Open one engine by name and warm it up, without fallback. Raises EngineError with the reason."""
    try:
        backend = _backend(name, card.with_onnx_names(), config)
        engine = CheckedEngine(backend, card.inputs, card.outputs, card.onnx_names)
        engine.warm_up(config.warm_up)
    except ModelIntegrityError:
        raise
    except (UserError, EngineError) as error:
        raise EngineError(str(error)) from error
    except Exception as error:  # an installed but broken library may raise anything
        raise EngineError(f"{type(error).__name__}: {error}") from error
    return engine


def _factory(name: EngineName, card: ModelCard, config: RuntimeConfig) -> EngineFactory:
    return lambda: open_single_engine(name, card, config)


def _backend(name: EngineName, card: ModelCard, config: RuntimeConfig) -> Backend:
    if name == "onnxruntime":
        return OnnxRuntimeBackend(card, config)
    if name == "openvino":
        return OpenVINOBackend(card, config)
    if name == "torch":
        from multimodal_perception.runtime.torch import TorchBackend

        return TorchBackend(card, config)
    from multimodal_perception.runtime.tensorrt import TensorRTBackend

    return TensorRTBackend(name, card, config)


class FallbackEngine:
    """An Engine that switches to the next engine when the current one fails.

    If an engine fails on a frame and a later one succeeds on the same frame, the failed engine is not
    used again. If all engines fail on a frame, EngineError is raised and all of them stay available,
    because the network or the frame may be the cause. They are tried again after 1, 3, 7, ... up to
    MAX_RETRY_DELAY frames; in between, run() raises EngineError without running anything, so that a
    broken network does not slow down the pipeline.

    model: the card's name. unavailable: reason by engine that is not used. failed_engines: engines that
    worked first and failed later. failed_frames: number of frames that no engine processed.
    """

    def __init__(
        self,
        card: ModelCard,
        factories: Mapping[str, EngineFactory],
        rejected: Mapping[str, str] | None = None,
        measured_ms: Mapping[str, float] | None = None,
    ) -> None:
        """Open the first engine of `factories` (best first) that works. Raises EngineError.

        rejected: reason by engine that is not in `factories`. measured_ms: times of the engines on
        sample inputs by which they were chosen, for diagnostics.
        """
        self.inputs: Mapping[str, TensorSpec] = dict(card.inputs)
        self.outputs: Mapping[str, TensorSpec] = dict(card.outputs)
        self.model = card.name
        self.unavailable: dict[str, str] = dict(rejected or {})
        self._measured_ms = dict(measured_ms or {})
        self.failed_engines: list[str] = []
        self.failed_frames = 0
        self._factories = dict(factories)  # of the usable engines, best first
        self._engines: dict[str, Engine] = {}  # those opened so far
        self._consecutive_failures = self._retry_delay = 0
        self._last_failure = ""
        for name in factories:
            engine = self._open(name)
            if engine is not None:
                self._current = engine
                break
        else:
            raise EngineError(f"{self.model}: no engine works: {_join(self.unavailable)}")
        log.info("%s: runs with %s %s on %s", self.model, self.name, self.precision, self.device)

    @property
    def name(self) -> str:
        return self._current.name

    @property
    def device(self) -> str:
        return self._current.device

    @property
    def precision(self) -> str:
        """Numerical precision of the current engine."""
        return str(getattr(self._current, "precision", "fp32"))

    @property
    def timings(self) -> Timings:
        """Run times of the current engine."""
        return self._current.timings

    @property
    def degraded(self) -> bool:
        """Whether an engine failed while running, or no engine could process the last frame."""
        return bool(self.degraded_reason)

    @property
    def degraded_reason(self) -> str:
        """Why this engine is degraded, for /diagnostics; empty if it is not."""
        if self._consecutive_failures:
            return f"no engine can run {self.model}: {self._last_failure}"
        if self.failed_engines:
            failures = {name: self.unavailable[name] for name in list(self.failed_engines)}
            return f"{self.model} runs with {self.name} instead: {_join(failures)}"
        return ""

    def diagnostics(self) -> dict[str, Any]:
        """Engine, device, precision, times, failed frames, and why other engines are unavailable."""
        return {
            "engine": self.name,
            "device": self.device,
            "precision": self.precision,
            "failed_frames": self.failed_frames,
            **self.timings.summary(),
            **{f"measured_ms.{name}": ms for name, ms in self._measured_ms.items()},
            **{f"unavailable.{name}": reason for name, reason in dict(self.unavailable).items()},
        }

    def warm_up(self, runs: int = 2) -> None:
        """See Engine."""
        self._current.warm_up(runs)

    def run(self, arrays: Arrays) -> dict[str, NDArray[Any]]:
        """See Engine. Raises InputError for wrong inputs, EngineError if all engines fail."""
        return self._first_success(lambda engine: engine.run(arrays))

    def run_many(self, frames: Sequence[Arrays]) -> list[dict[str, NDArray[Any]]]:
        """See Engine. Raises InputError for wrong inputs, EngineError if all engines fail."""
        return self._first_success(lambda engine: engine.run_many(frames))

    def _first_success(self, process: Callable[[Engine], T]) -> T:
        """Call `process` with the engines in order until it succeeds; return its result."""
        if self._retry_delay > 0:
            self._retry_delay -= 1
            self.failed_frames += 1
            raise EngineError(
                f"{self.model}: all engines failed; next attempt in {self._retry_delay + 1} frames"
            )
        failures: dict[str, str] = {}
        for name in list(self._factories):
            engine = self._open(name)
            if engine is None:
                continue
            try:
                results = process(engine)
            except InputError:
                raise
            except EngineError as error:
                failures[name] = str(error)
                continue
            self._use(engine, failures)
            return results
        self.failed_frames += 1
        self._consecutive_failures += 1
        self._retry_delay = min(2**self._consecutive_failures - 1, MAX_RETRY_DELAY)
        self._last_failure = _join(failures or self.unavailable)
        message = f"{self.model}: no engine could run this frame: {self._last_failure}"
        log.error("%s", message)
        raise EngineError(message)

    def _open(self, name: str) -> Engine | None:
        """Return the engine of this name, opened at its first use, or None if it cannot be opened."""
        if name not in self._engines:
            try:
                self._engines[name] = self._factories[name]()
            except EngineError as error:
                self._remove(name, str(error))
                return None
            except ModelIntegrityError as error:  # the file was modified after the start
                self._remove(name, str(error), logging.ERROR)
                self.failed_engines.append(name)
                return None
        return self._engines[name]

    def _use(self, engine: Engine, failures: Mapping[str, str]) -> None:
        """Make this engine, which processed a frame, the current one; remove those that failed."""
        self._consecutive_failures = 0
        self._current = engine
        for name, reason in failures.items():
            self._remove(name, f"failed while running: {reason}", logging.ERROR)
            # After `unavailable`, which degraded_reason reads for these names on another thread.
            self.failed_engines.append(name)
        if failures:
            log.warning("%s: continues with %s on %s", self.model, self.name, self.device)

    def _remove(self, name: str, reason: str, level: int = logging.INFO) -> None:
        self.unavailable[name] = reason
        self._factories.pop(name, None)
        self._engines.pop(name, None)
        log.log(level, "%s: %s is not used: %s", self.model, name, reason)


def _join(reasons: Mapping[str, str]) -> str:
    return "; ".join(f"{name}: {reason}" for name, reason in reasons.items())
