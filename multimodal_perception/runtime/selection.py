"""Choice of the inference engine of a network by measurement, cached per computer.

Every engine that works is run on the same inputs. Engines whose outputs differ from the reference
(ONNX Runtime in float32 on the CPU, or torch) by more than output_difference.TOLERANCES are not used;
the others are ranked by their median time. The result is a file in the cache folder, valid for one
model, processor, set of installed engines and configuration.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import importlib.metadata
import logging
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from multimodal_perception.runtime.card import ModelCard
from multimodal_perception.runtime.cuda import Gpu
from multimodal_perception.runtime.engine import Arrays, Engine, EngineError
from multimodal_perception.runtime.measurement_file import digest_of, stored_or_measured
from multimodal_perception.runtime.onnxruntime import available_cores, has_gpu_provider
from multimodal_perception.runtime.openvino import device_precisions
from multimodal_perception.runtime.openvino import devices as openvino_devices
from multimodal_perception.runtime.output_difference import TOLERANCES, output_differences
from multimodal_perception.runtime.precision import calibrated_path
from multimodal_perception.runtime.processor import processor_name
from multimodal_perception.runtime.sample_inputs import sample_inputs
from multimodal_perception.runtime.settings import EngineName, Precision, RuntimeConfig

log = logging.getLogger(__name__)
VERSION = 1  # of the measurement; a change makes all stored results invalid
ROUNDS, WARM_UP = 9, 2
# An engine whose first run takes longer than this multiple of the fastest one's is not run again.
SLOW_FACTOR = 4.0
PACKAGES = ("openvino", "onnxruntime", "onnxruntime-gpu", "torch", "tensorrt", "tensorrt_rtx_cu13")
_measured: dict[str, Ranking] = {}  # of this process, for a cache folder that cannot be written
_thread = threading.local()


@dataclass(frozen=True)
class Candidate:
    """An engine with its precision and its device.

    device: of OpenVINO, such as "CPU"; for other engines "cpu", or empty for the configured device.
    """

    engine: EngineName
    precision: Precision = "fp32"
    device: str = ""

    @property
    def label(self) -> str:
        """Name for logs, diagnostics and the stored result, such as "openvino CPU bf16"."""
        parts = [self.engine, self.device, "" if self.precision == "fp32" else self.precision]
        return " ".join(part for part in parts if part)

    def configure(self, config: RuntimeConfig) -> RuntimeConfig:
        """Return the configuration that opens this candidate."""
        config = dataclasses.replace(config, order=(self.engine,), precision=self.precision)
        if self.engine == "openvino":
            return dataclasses.replace(config, openvino_device=self.device)
        return dataclasses.replace(config, device="cpu") if self.device == "cpu" else config


@dataclass(frozen=True)
class Ranking:
    """Result of a measurement.

    order: usable candidates, fastest first. milliseconds: median time per run by label. differences:
    largest relative difference from the reference by label. rejected: reason by label of the candidates
    that are not used. reference: the engine that computed the reference outputs.
    """

    order: tuple[Candidate, ...]
    milliseconds: Mapping[str, float]
    differences: Mapping[str, float]
    rejected: Mapping[str, str]
    reference: str


OpenCandidate = Callable[[Candidate], Engine]


def candidates(config: RuntimeConfig) -> list[Candidate]:
    """Return the engines, precisions and devices to measure; installed or not."""
    found: list[Candidate] = []
    wanted = config.precision
    for engine in config.engines:
        if engine in ("tensorrt", "tensorrt_rtx"):
            precisions: tuple[Precision, ...] = ("fp16", "fp32") if wanted == "auto" else ()
            if wanted in ("fp16", "fp32", "int8"):
                precisions = (wanted, "fp32") if wanted != "fp32" else ("fp32",)
            found += [Candidate(engine, p) for p in precisions or ("fp32",)]
        elif engine == "openvino":
            found += _openvino_candidates(config)
        else:
            if engine == "onnxruntime" and wanted == "int8":
                found.append(Candidate(engine, "int8"))
            found.append(Candidate(engine))
            if engine == "onnxruntime" and config.device == "auto" and has_gpu_provider(config):
                found.append(Candidate(engine, device="cpu"))
    return found


def _openvino_candidates(config: RuntimeConfig) -> list[Candidate]:
    if config.openvino_device != "auto":
        names = [config.openvino_device]
    elif config.device == "cpu":
        names = ["CPU"]
    else:
        names = openvino_devices() or ["CPU"]
    found = []
    for device in names:
        available = device_precisions(device) or ["fp32"]
        if config.precision == "auto":
            # On a CPU with both, float16 is computed as bfloat16 or not faster.
            reduced: tuple[Precision, ...] = ("bf16", "fp16")
            chosen = [p for p in reduced if p in available][:1]
        else:
            chosen = [config.precision]
        found += [Candidate("openvino", p, device) for p in dict.fromkeys([*chosen, "fp32"])]
    return found


def choose_engines(
    card: ModelCard, config: RuntimeConfig, open_candidate: OpenCandidate
) -> Ranking:
    """Return the ranking of the engines for a network: stored, or measured and stored.

    open_candidate: opens an engine, warmed up; raises EngineError. Raises EngineError if no engine
    works.
    """
    key = measurement_key(card, config)
    identity = digest_of(key)
    if config.measuring == "once" and identity in _measured:
        return _measured[identity]

    def measure() -> dict[str, Any]:
        return dataclasses.asdict(measure_engines(card, config, open_candidate))

    path = ranking_path(card, config)
    renew = config.measuring == "always"
    ranking = _to_ranking(stored_or_measured(path, key, measure, renew, f"{card.name}: engines"))
    if ranking is None:  # written by another version of the package
        ranking = measure_engines(card, config, open_candidate)
    _measured[identity] = ranking
    return ranking


def _to_ranking(values: Mapping[str, Any]) -> Ranking | None:
    """The stored ranking; None if it has other fields."""
    try:
        order = tuple(Candidate(**entry) for entry in values["order"])
        names = [f.name for f in dataclasses.fields(Ranking) if f.name != "order"]
        return Ranking(order, **{name: values[name] for name in names}) if order else None
    except (TypeError, KeyError):
        return None


def is_measuring() -> bool:
    """Whether this thread is measuring. Networks that it opens for sample inputs are not measured."""
    return bool(getattr(_thread, "measuring", False))


def measure_engines(
    card: ModelCard, config: RuntimeConfig, open_candidate: OpenCandidate
) -> Ranking:
    """Run all candidates alternately on sample inputs. Raises EngineError if none can be used."""
    _thread.measuring = True
    try:
        return _measure(card, config, open_candidate)
    finally:
        _thread.measuring = False


def _measure(card: ModelCard, config: RuntimeConfig, open_candidate: OpenCandidate) -> Ranking:
    arrays = sample_inputs(card)
    rejected: dict[str, str] = {}
    engines: dict[Candidate, Engine] = {}
    for candidate in candidates(config):
        try:
            engines[candidate] = open_candidate(candidate)
        except EngineError as error:
            rejected[candidate.label] = str(error)
    reference, expected = _reference(card, open_candidate, engines, arrays)
    differences: dict[str, float] = {}
    milliseconds: dict[str, float] = {}
    for candidate in list(engines):
        start = time.perf_counter()
        reason = _check(card, candidate, engines[candidate], arrays, expected, differences)
        milliseconds[candidate.label] = 1e3 * (time.perf_counter() - start)
        if reason:
            rejected[candidate.label] = reason
            log.warning("%s: %s is not used: %s", card.name, candidate.label, reason)
            del engines[candidate]
    if not engines:
        reasons = "; ".join(f"{label}: {reason}" for label, reason in rejected.items())
        raise EngineError(f"{card.name}: no engine works: {reasons}")
    fastest = min(milliseconds[c.label] for c in engines)
    fast = {c: e for c, e in engines.items() if milliseconds[c.label] <= SLOW_FACTOR * fastest}
    milliseconds = {c.label: milliseconds[c.label] for c in engines} | _time(fast, arrays)
    order = sorted(engines, key=lambda c: milliseconds[c.label])
    text = ", ".join(f"{c.label} {milliseconds[c.label]:.1f} ms" for c in order)
    log.info("%s: measured %s; reference: %s", card.name, text, reference)
    return Ranking(tuple(order), milliseconds, differences, rejected, reference)


def _reference(
    card: ModelCard,
    open_candidate: OpenCandidate,
    engines: Mapping[Candidate, Engine],
    arrays: Arrays,
) -> tuple[str, Arrays]:
    """The reference's name and its outputs: ONNX Runtime in float32 on the CPU, or torch."""
    names: tuple[EngineName, ...] = ("onnxruntime", "torch")
    reasons = []
    for name in names:
        try:
            engine = engines.get(Candidate(name))
            if engine is None or engine.device != "cpu":
                engine = open_candidate(Candidate(name, device="cpu"))
            return f"{name} fp32 on the CPU", engine.run(arrays)
        except EngineError as error:
            reasons.append(f"{name}: {error}")
    raise EngineError(f"{card.name}: no engine computes the reference: {'; '.join(reasons)}")


def _check(
    card: ModelCard,
    candidate: Candidate,
    engine: Engine,
    arrays: Arrays,
    expected: Arrays,
    differences: dict[str, float],
) -> str:
    """Why a candidate cannot be used; empty if its outputs agree with the reference."""
    try:
        found = output_differences(card, expected, engine.run(arrays))
    except EngineError as error:
        return str(error)
    worst = max(found, key=lambda name: found[name])
    differences[candidate.label] = found[worst]
    tolerance = TOLERANCES[candidate.precision]
    if not found[worst] <= tolerance:
        return (
            f"output {worst} differs from the reference by {100 * found[worst]:.1f} %; "
            f"tolerance of {candidate.precision}: {100 * tolerance:g} %"
        )
    return ""


def _time(engines: Mapping[Candidate, Engine], arrays: Arrays) -> dict[str, float]:
    """Median milliseconds per run by label, of runs in alternation."""
    times: dict[Candidate, list[float]] = {candidate: [] for candidate in engines}
    for round_index in range(WARM_UP + ROUNDS):
        for candidate, engine in engines.items():
            start = time.perf_counter()
            engine.run(arrays)
            if round_index >= WARM_UP:
                times[candidate].append(1e3 * (time.perf_counter() - start))
    return {candidate.label: float(np.median(values)) for candidate, values in times.items()}


def measurement_key(card: ModelCard, config: RuntimeConfig) -> dict[str, Any]:
    """Return everything that a measurement depends on."""
    versions = {}
    for package in PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[package] = importlib.metadata.version(package)
    return {
        "version": VERSION,
        "model": card.onnx.sha256 if card.onnx is not None else "",
        "weights": card.weights.sha256 if card.weights is not None else "",
        "calibrated": _calibration_digest(card, config),
        "engines": versions,
        "processor": processor_name(),
        "threads": config.threads or available_cores(),
        "gpu": _gpu_name(config),
        "settings": [config.order, config.device, config.gpu, config.precision],
        "openvino_device": config.openvino_device,
        "tensorrt": [config.build, config.workspace_mib, config.dla_core, config.cuda_graph],
    }


def ranking_path(card: ModelCard, config: RuntimeConfig) -> Path:
    """Return the path of the stored result; a retrained model replaces it."""
    key = measurement_key(card, config)
    for name in ("version", "model", "weights", "calibrated", "engines"):
        del key[name]
    return config.cache_folder / "measurements" / f"{card.name}-{digest_of(key)[:12]}.json"


def _calibration_digest(card: ModelCard, config: RuntimeConfig) -> str:
    if config.precision != "int8":
        return ""
    try:
        return hashlib.sha256(calibrated_path(card, config.cache_folder).read_bytes()).hexdigest()
    except OSError:
        return ""


def _gpu_name(config: RuntimeConfig) -> str:
    if config.device == "cpu":
        return ""
    try:
        return Gpu(config.gpu).name
    except EngineError:
        return ""
