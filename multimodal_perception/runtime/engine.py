"""The inference engine protocol, with checks of inputs and outputs and measured run times."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from multimodal_perception.runtime.card import TensorSpec

Arrays = Mapping[str, NDArray[Any]]
MAX_RECENT_TIMES = 512


class EngineError(Exception):
    """An engine could not be opened or failed on a frame. The caller may use another engine."""


class InputError(EngineError):
    """The input arrays do not match the network's inputs; every engine would fail."""


class Engine(Protocol):
    """Runs one network.

    name: of the engine. device: "cpu", "cuda:0 (name)", ... precision: fp32, bf16, fp16 or int8. inputs,
    outputs: specifications by tensor name, in the network's order.
    """

    @property
    def name(self) -> str: ...

    @property
    def device(self) -> str: ...

    @property
    def precision(self) -> str: ...

    @property
    def inputs(self) -> Mapping[str, TensorSpec]: ...

    @property
    def outputs(self) -> Mapping[str, TensorSpec]: ...

    @property
    def timings(self) -> Timings: ...

    def run(self, arrays: Arrays) -> dict[str, NDArray[Any]]:
        """Run the network on one frame; return new arrays. Raises InputError or EngineError."""
        ...

    def run_many(self, frames: Sequence[Arrays]) -> list[dict[str, NDArray[Any]]]:
        """Run the network on several frames, in parallel if the library can. Raises as run() does."""
        ...

    def warm_up(self, runs: int = 2) -> None:
        """Run on zeros, so that the first frame is not delayed. Raises EngineError."""
        ...


class Backend(Protocol):
    """Inference by one library, without checks. Any exception counts as a failure."""

    name: str
    device: str

    def infer(self, arrays: Arrays) -> dict[str, NDArray[Any]]: ...


@runtime_checkable
class ParallelBackend(Protocol):
    """A Backend that processes several frames at once faster than one after the other."""

    def infer_many(self, frames: Sequence[Arrays]) -> list[dict[str, NDArray[Any]]]: ...


class Timings:
    """Run times of the last MAX_RECENT_TIMES runs in milliseconds, and counts of all runs."""

    def __init__(self) -> None:
        self.runs = 0
        self.failures = 0
        self._recent: deque[float] = deque(maxlen=MAX_RECENT_TIMES)

    def add(self, milliseconds: float) -> None:
        self.runs += 1
        self._recent.append(milliseconds)

    def clear(self) -> None:
        """Reset times and counts, for example after warm-up runs."""
        self.runs = self.failures = 0
        self._recent.clear()

    def summary(self) -> dict[str, float]:
        """Return runs, failures, and min_ms, p50_ms, p95_ms of the recent runs (NaN before any)."""
        times = np.array(list(self._recent) or [np.nan])
        return {
            "runs": self.runs,
            "failures": self.failures,
            "min_ms": float(times.min()),
            "p50_ms": float(np.percentile(times, 50)),
            "p95_ms": float(np.percentile(times, 95)),
        }


class CheckedEngine:
    """An Engine made from a backend: inputs and outputs are checked, and each run is timed."""

    def __init__(
        self,
        backend: Backend,
        inputs: Mapping[str, TensorSpec],
        outputs: Mapping[str, TensorSpec],
        onnx_names: Mapping[str, str] | None = None,
    ) -> None:
        """onnx_names: the backend's name of a tensor by its name here, for those that differ."""
        self.name, self.device = backend.name, backend.device
        self.precision = str(getattr(backend, "precision", "fp32"))
        self.inputs, self.outputs = dict(inputs), dict(outputs)
        self.timings = Timings()
        self._backend = backend
        names = onnx_names or {}
        self._onnx_names = {name: names.get(name, name) for name in (*self.inputs, *self.outputs)}

    def run(self, arrays: Arrays) -> dict[str, NDArray[Any]]:
        """See Engine. Any exception of the backend or an invalid output raises EngineError."""
        check_inputs(self.inputs, arrays)
        start = time.perf_counter()
        try:
            results = self._infer(arrays)
            check_outputs(self.outputs, results)
        except Exception as error:  # libraries raise anything; the caller may use another engine
            self.timings.failures += 1
            text = str(error) or type(error).__name__
            raise EngineError(f"{self.name} on {self.device}: {text}") from error
        self.timings.add(1e3 * (time.perf_counter() - start))
        return {name: results[name] for name in self.outputs}

    def run_many(self, frames: Sequence[Arrays]) -> list[dict[str, NDArray[Any]]]:
        """See Engine. The time of each run is that of all of them divided by their number."""
        if len(frames) < 2 or not isinstance(self._backend, ParallelBackend):
            return [self.run(arrays) for arrays in frames]
        for arrays in frames:
            check_inputs(self.inputs, arrays)
        start = time.perf_counter()
        try:
            inputs = [self._backend_inputs(arrays) for arrays in frames]
            results = [self._named_outputs(r) for r in self._backend.infer_many(inputs)]
            for outputs in results:
                check_outputs(self.outputs, outputs)
        except Exception as error:  # libraries raise anything; the caller may use another engine
            self.timings.failures += 1
            text = str(error) or type(error).__name__
            raise EngineError(f"{self.name} on {self.device}: {text}") from error
        for _ in frames:
            self.timings.add(1e3 * (time.perf_counter() - start) / len(frames))
        return [{name: outputs[name] for name in self.outputs} for outputs in results]

    def _infer(self, arrays: Arrays) -> dict[str, NDArray[Any]]:
        """Run the backend; return the outputs that it gives, by their names here."""
        return self._named_outputs(self._backend.infer(self._backend_inputs(arrays)))

    def _backend_inputs(self, arrays: Arrays) -> dict[str, NDArray[Any]]:
        return {self._onnx_names[name]: arrays[name] for name in self.inputs}

    def _named_outputs(self, results: Arrays) -> dict[str, NDArray[Any]]:
        names = self._onnx_names
        return {name: results[names[name]] for name in self.outputs if names[name] in results}

    def warm_up(self, runs: int = 2) -> None:
        """See Engine. These runs are not timed, and their outputs are not checked."""
        zeros = zero_inputs(self.inputs)
        try:
            for _ in range(runs):
                self._infer(zeros)
        except Exception as error:
            raise EngineError(f"{self.name} on {self.device}: {error}") from error


def run_many(network: Any, frames: Sequence[Arrays]) -> list[dict[str, NDArray[Any]]]:
    """Run a network on several inputs: in parallel if it has a method run_many, else in sequence.

    network: an Engine, or an object with the same method run(). Raises the errors of run().
    """
    if len(frames) > 1 and hasattr(network, "run_many"):
        return list(network.run_many(frames))
    return [network.run(arrays) for arrays in frames]


def check_inputs(specs: Mapping[str, TensorSpec], arrays: Arrays) -> None:
    """Check names, shapes, types and finiteness of the inputs. Raises InputError."""
    if set(arrays) != set(specs):
        missing, extra = sorted(set(specs) - set(arrays)), sorted(set(arrays) - set(specs))
        raise InputError(f"inputs: missing {missing or 'none'}, unknown {extra or 'none'}")
    for name, spec in specs.items():
        fault = _fault(spec, arrays[name])
        if fault:
            raise InputError(f"input {name}: {fault}")


def check_outputs(specs: Mapping[str, TensorSpec], arrays: Arrays) -> None:
    """Check the outputs in the same way; additional arrays are ignored. Raises EngineError."""
    for name, spec in specs.items():
        if name not in arrays:
            raise EngineError(f"output {name} is missing")
        fault = _fault(spec, arrays[name])
        if fault:
            raise EngineError(f"output {name}: {fault}")


def zero_inputs(specs: Mapping[str, TensorSpec]) -> dict[str, NDArray[Any]]:
    """Return zeros of every input's shape and type, for warm-up runs only."""
    return {name: np.zeros(spec.shape, spec.dtype) for name, spec in specs.items()}


def _fault(spec: TensorSpec, array: Any) -> str:
    """Describe how an array differs from its specification; empty if it does not."""
    if not isinstance(array, np.ndarray):
        return f"expected an array, got {type(array).__name__}"
    if array.shape != spec.shape or array.dtype != np.dtype(spec.dtype):
        return (
            f"expected {list(spec.shape)} {spec.dtype}, got {list(array.shape)} {array.dtype.name}"
        )
    # min and max propagate NaN, so that no temporary array of flags is needed.
    if (
        spec.finite
        and array.dtype.kind == "f"
        and not (np.isfinite(array.min()) and np.isfinite(array.max()))
    ):
        return f"{np.count_nonzero(~np.isfinite(array))} values are not finite"
    return ""
