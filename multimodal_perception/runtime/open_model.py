"""Open the inference engine of a network, with the other engines as fallback at run time."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Mapping
from typing import Any

from numpy.typing import NDArray

from multimodal_perception.configuration import UserError
from multimodal_perception.runtime.card import ModelCard, TensorSpec
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
from multimodal_perception.runtime.settings import EngineName, RuntimeConfig

log = logging.getLogger(__name__)
EngineFactory = Callable[[], Engine]
MAX_RETRY_DELAY = 63  # frames without an attempt after repeated failures


def open_engine(card: ModelCard, config: RuntimeConfig | None = None) -> FallbackEngine:
    """Open the first engine of config.order that works, warmed up; the others are its fallback.

    The reason why an engine cannot be used is logged once. With device "auto", if ONNX Runtime runs on
    a GPU, ONNX Runtime on the CPU is added as the last fallback. Raises EngineError with all reasons
    if no engine works.
    """
    config = config or RuntimeConfig()
    factories: dict[str, EngineFactory] = {
        name: _engine_factory(name, card, config) for name in config.order
    }
    if config.device == "auto" and "onnxruntime" in config.order and has_gpu_provider(config):
        on_cpu = dataclasses.replace(config, device="cpu")
        factories["onnxruntime on the CPU"] = _engine_factory("onnxruntime", card, on_cpu)
    return FallbackEngine(card, factories)


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
    except (UserError, EngineError) as error:
        raise EngineError(str(error)) from error
    except Exception as error:  # an installed but broken library may raise anything
        raise EngineError(f"{type(error).__name__}: {error}") from error
    return engine


def _engine_factory(name: EngineName, card: ModelCard, config: RuntimeConfig) -> EngineFactory:
    return lambda: open_single_engine(name, card, config)


def _backend(name: EngineName, card: ModelCard, config: RuntimeConfig) -> Backend:
    if name == "onnxruntime":
        return OnnxRuntimeBackend(card, config)
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

    def __init__(self, card: ModelCard, factories: Mapping[str, EngineFactory]) -> None:
        """Open the first engine of `factories` (best first) that works. Raises EngineError."""
        self.inputs: Mapping[str, TensorSpec] = dict(card.inputs)
        self.outputs: Mapping[str, TensorSpec] = dict(card.outputs)
        self.model = card.name
        self.unavailable: dict[str, str] = {}
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
        log.info("%s: runs with %s on %s", self.model, self.name, self.device)

    @property
    def name(self) -> str:
        return self._current.name

    @property
    def device(self) -> str:
        return self._current.device

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
        """Engine, device, run times, failed frames, and why other engines are unavailable."""
        return {
            "engine": self.name,
            "device": self.device,
            "failed_frames": self.failed_frames,
            **self.timings.summary(),
            **{f"unavailable.{name}": reason for name, reason in dict(self.unavailable).items()},
        }

    def warm_up(self, runs: int = 2) -> None:
        """See Engine."""
        self._current.warm_up(runs)

    def run(self, arrays: Arrays) -> dict[str, NDArray[Any]]:
        """See Engine. Raises InputError for wrong inputs, EngineError if all engines fail."""
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
                results = engine.run(arrays)
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
