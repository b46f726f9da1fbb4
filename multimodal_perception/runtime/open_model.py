"""Which engine runs a network: the first that works, and the next one when it fails."""

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
Opener = Callable[[], Engine]
MAX_PAUSE = 63  # frames


def open_engine(card: ModelCard, config: RuntimeConfig | None = None) -> FallbackEngine:
    """The first engine of config.order that works, warmed up, with the others behind it.

    Each engine that is not used is logged once with its reason. With device auto, ONNX Runtime on the
    CPU comes last of all where it would else run on a GPU. Raises EngineError, which lists the
    reasons, when none works.
    """
    config = config or RuntimeConfig()
    openers: dict[str, Opener] = {name: _opener(name, card, config) for name in config.order}
    if config.device == "auto" and "onnxruntime" in config.order and has_gpu_provider(config):
        on_cpu = dataclasses.replace(config, device="cpu")
        openers["onnxruntime on the CPU"] = _opener("onnxruntime", card, on_cpu)
    return FallbackEngine(card, openers)


def open_model(card: ModelCard, config: RuntimeConfig | None = None) -> FallbackEngine:
    """open_engine for a model that the user chose. Raises UserError, which names its card."""
    try:
        return open_engine(card, config)
    except EngineError as error:
        raise UserError(f"{card.source}: {error}") from error


def open_one(name: EngineName, card: ModelCard, config: RuntimeConfig) -> Engine:
    """One engine by its name, warmed up. Raises EngineError with the reason why it cannot be used."""
    try:
        backend = _backend(name, card.as_in_onnx(), config)
        engine = CheckedEngine(backend, card.inputs, card.outputs, card.onnx_names)
        engine.warm_up(config.warm_up)
    except (UserError, EngineError) as error:
        raise EngineError(str(error)) from error
    except Exception as error:  # a library that is there and broken is one that does not work
        raise EngineError(f"{type(error).__name__}: {error}") from error
    return engine


def _opener(name: EngineName, card: ModelCard, config: RuntimeConfig) -> Opener:
    return lambda: open_one(name, card, config)


def _backend(name: EngineName, card: ModelCard, config: RuntimeConfig) -> Backend:
    if name == "onnxruntime":
        return OnnxRuntimeBackend(card, config)
    if name == "torch":
        from multimodal_perception.runtime.torch import TorchBackend

        return TorchBackend(card, config)
    from multimodal_perception.runtime.tensorrt import TensorRTBackend

    return TensorRTBackend(name, card, config)


class FallbackEngine:
    """An Engine that goes on with the next one when the current one fails.

    A failed engine is given up for good once a later one does the same frame. When none can do it,
    EngineError is raised: the network or the frame is at fault, and all are tried again on later
    frames, after pauses of 1, 3, 7, ... frames in which EngineError comes at once, so that a broken
    network costs the vehicle no time.
    """

    def __init__(self, card: ModelCard, openers: Mapping[str, Opener]) -> None:
        self.inputs: Mapping[str, TensorSpec] = dict(card.inputs)
        self.outputs: Mapping[str, TensorSpec] = dict(card.outputs)
        self.model = card.name
        self.reasons: dict[str, str] = {}  # engine -> why it is not used
        self.given_up = 0  # engines that worked once and failed later
        self.frames_lost = 0
        self._openers = dict(openers)  # of those still to be used, best first
        self._engines: dict[str, Engine] = {}
        self._lost_in_a_row = self._pause = 0
        for name in openers:
            engine = self._open(name)
            if engine is not None:
                self._current = engine
                break
        else:
            raise EngineError(f"{self.model}: no engine works: {_listed(self.reasons)}")
        log.info("%s: runs by %s on %s", self.model, self.name, self.device)

    @property
    def name(self) -> str:
        return self._current.name

    @property
    def device(self) -> str:
        return self._current.device

    @property
    def timings(self) -> Timings:
        """Of the current engine."""
        return self._current.timings

    @property
    def degraded(self) -> bool:
        """Whether an engine was given up while running, or the last frame was lost."""
        return self.given_up > 0 or self._lost_in_a_row > 0

    @property
    def state(self) -> dict[str, Any]:
        """For diagnostics: engine, device, times, frames lost, and why others are not used."""
        return {
            "engine": self.name,
            "device": self.device,
            "frames_lost": self.frames_lost,
            **self.timings.summary(),
            **{f"not_used.{name}": reason for name, reason in self.reasons.items()},
        }

    def warm_up(self, runs: int = 2) -> None:
        self._current.warm_up(runs)

    def run(self, arrays: Arrays) -> dict[str, NDArray[Any]]:
        """See Engine. Raises InputError for wrong inputs, EngineError when no engine does it."""
        if self._pause > 0:
            self._pause -= 1
            self.frames_lost += 1
            raise EngineError(f"{self.model}: no engine could run it; tried again soon")
        failures: dict[str, str] = {}
        for name in list(self._openers):
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
            self._settle(engine, failures)
            return results
        self.frames_lost += 1
        self._lost_in_a_row += 1
        self._pause = min(2**self._lost_in_a_row - 1, MAX_PAUSE)
        reasons = _listed(failures or self.reasons)
        log.error("%s: no engine could run this frame: %s", self.model, reasons)
        raise EngineError(f"{self.model}: no engine could run this frame: {reasons}")

    def _open(self, name: str) -> Engine | None:
        """The engine of this name, opened at its first use; None, and out of the list, if it fails."""
        if name not in self._engines:
            try:
                self._engines[name] = self._openers[name]()
            except EngineError as error:
                self._drop(name, str(error))
                return None
        return self._engines[name]

    def _settle(self, engine: Engine, failures: Mapping[str, str]) -> None:
        """This engine did the frame: those before it that failed are given up."""
        self._lost_in_a_row = 0
        self._current = engine
        for name, reason in failures.items():
            self.given_up += 1
            self._drop(name, f"failed while running: {reason}", logging.ERROR)
        if failures:
            log.warning("%s: goes on by %s on %s", self.model, self.name, self.device)

    def _drop(self, name: str, reason: str, level: int = logging.INFO) -> None:
        self.reasons[name] = reason
        self._openers.pop(name, None)
        self._engines.pop(name, None)
        log.log(level, "%s: %s is not used: %s", self.model, name, reason)


def _listed(reasons: Mapping[str, str]) -> str:
    return "; ".join(f"{name}: {reason}" for name, reason in reasons.items())
