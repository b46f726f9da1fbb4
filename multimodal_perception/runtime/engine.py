"""What runs a network: the protocol that callers see, its checks and its times."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from multimodal_perception.runtime.card import TensorSpec

Arrays = Mapping[str, NDArray[Any]]
KEPT_TIMES = 512


class EngineError(Exception):
    """An engine could not be opened, or could not do a frame. The caller has another way."""


class InputError(EngineError):
    """The caller's arrays are not what the network takes; no engine would do better."""


class Engine(Protocol):
    """Runs one network. inputs, outputs: by name, in the network's order. device: cpu, cuda:0, ..."""

    @property
    def name(self) -> str: ...

    @property
    def device(self) -> str: ...

    @property
    def inputs(self) -> Mapping[str, TensorSpec]: ...

    @property
    def outputs(self) -> Mapping[str, TensorSpec]: ...

    @property
    def timings(self) -> Timings: ...

    def run(self, arrays: Arrays) -> dict[str, NDArray[Any]]:
        """Outputs of one frame; new arrays. Raises InputError or EngineError."""
        ...

    def warm_up(self, runs: int = 2) -> None:
        """Run on blank inputs, so that the first frame is not late. Raises EngineError."""
        ...


class Backend(Protocol):
    """What a library does for an engine: infer, without checks. Any exception is a failure."""

    name: str
    device: str

    def infer(self, arrays: Arrays) -> dict[str, NDArray[Any]]: ...


class Timings:
    """How long runs took: milliseconds of the last ones, counts of all."""

    def __init__(self) -> None:
        self.runs = 0
        self.failures = 0
        self._recent: deque[float] = deque(maxlen=KEPT_TIMES)

    def add(self, milliseconds: float) -> None:
        self.runs += 1
        self._recent.append(milliseconds)

    def clear(self) -> None:
        """Forget warm-up runs."""
        self.runs = self.failures = 0
        self._recent.clear()

    def summary(self) -> dict[str, float]:
        """runs, failures, and min, p50 and p95 of the last runs, milliseconds (NaN before any)."""
        times = np.array(self._recent if self._recent else [np.nan])
        return {
            "runs": self.runs,
            "failures": self.failures,
            "min_ms": float(times.min()),
            "p50_ms": float(np.percentile(times, 50)),
            "p95_ms": float(np.percentile(times, 95)),
        }


class CheckedEngine:
    """A library's backend as an Engine: what goes in and out is checked, and each run timed."""

    def __init__(
        self,
        backend: Backend,
        inputs: Mapping[str, TensorSpec],
        outputs: Mapping[str, TensorSpec],
        onnx_names: Mapping[str, str] | None = None,
    ) -> None:
        """onnx_names: names of tensors for the backend by their names here, where they differ."""
        self.name, self.device = backend.name, backend.device
        self.inputs, self.outputs = dict(inputs), dict(outputs)
        self.timings = Timings()
        self._backend = backend
        names = onnx_names or {}
        self._onnx_names = {name: names.get(name, name) for name in (*self.inputs, *self.outputs)}

    def run(self, arrays: Arrays) -> dict[str, NDArray[Any]]:
        """See Engine. Out of memory, an exception or a wrong output is an EngineError."""
        check_inputs(self.inputs, arrays)
        start = time.perf_counter()
        try:
            results = self._infer(arrays)
            check_outputs(self.outputs, results)
        except Exception as error:  # whatever a library raises: the caller has another engine
            self.timings.failures += 1
            text = str(error) or type(error).__name__
            raise EngineError(f"{self.name} on {self.device}: {text}") from error
        self.timings.add(1e3 * (time.perf_counter() - start))
        return {name: results[name] for name in self.outputs}

    def _infer(self, arrays: Arrays) -> dict[str, NDArray[Any]]:
        """Outputs of the backend that it has, by their names here."""
        names = self._onnx_names
        results = self._backend.infer({names[name]: arrays[name] for name in self.inputs})
        return {name: results[names[name]] for name in self.outputs if names[name] in results}

    def warm_up(self, runs: int = 2) -> None:
        """See Engine. Its runs are not counted; what comes out of blank inputs is not judged."""
        blank = blank_inputs(self.inputs)
        try:
            for _ in range(runs):
                self._infer(blank)
        except Exception as error:
            raise EngineError(f"{self.name} on {self.device}: {error}") from error


def check_inputs(specs: Mapping[str, TensorSpec], arrays: Arrays) -> None:
    """Names, shapes, types and finiteness of what a caller gives. Raises InputError."""
    if set(arrays) != set(specs):
        missing, extra = sorted(set(specs) - set(arrays)), sorted(set(arrays) - set(specs))
        raise InputError(f"inputs: missing {missing or 'none'}, unknown {extra or 'none'}")
    for name, spec in specs.items():
        fault = _fault(spec, arrays[name])
        if fault:
            raise InputError(f"input {name}: {fault}")


def check_outputs(specs: Mapping[str, TensorSpec], arrays: Arrays) -> None:
    """The same of what a backend gives; outputs nobody asked for are ignored. Raises EngineError."""
    for name, spec in specs.items():
        if name not in arrays:
            raise EngineError(f"output {name} is missing")
        fault = _fault(spec, arrays[name])
        if fault:
            raise EngineError(f"output {name}: {fault}")


def blank_inputs(specs: Mapping[str, TensorSpec]) -> dict[str, NDArray[Any]]:
    """Zeros of every input's shape: for warming up, never for perceiving."""
    return {name: np.zeros(spec.shape, spec.dtype) for name, spec in specs.items()}


def _fault(spec: TensorSpec, array: Any) -> str:
    """What is wrong with an array, or an empty string."""
    if not isinstance(array, np.ndarray):
        return f"expected an array, got {type(array).__name__}"
    if array.shape != spec.shape or array.dtype != np.dtype(spec.dtype):
        return (
            f"expected {list(spec.shape)} {spec.dtype}, got {list(array.shape)} {array.dtype.name}"
        )
    # NaN passes through min and max: no temporary array of flags.
    if (
        spec.finite
        and array.dtype.kind == "f"
        and not (np.isfinite(array.min()) and np.isfinite(array.max()))
    ):
        return f"{np.count_nonzero(~np.isfinite(array))} values are not finite"
    return ""
