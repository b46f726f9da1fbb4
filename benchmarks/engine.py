"""A model by every engine that works here, side by side, on the same inputs.

The engines take turns, run by run, so that what else the machine does falls on all of them alike.
"""

from __future__ import annotations

import dataclasses
import time
from argparse import Namespace
from pathlib import Path
from typing import Any

import numpy as np

from multimodal_perception.configuration import UserError
from multimodal_perception.runtime.architectures import ARCHITECTURES
from multimodal_perception.runtime.card import ModelCard, load_card
from multimodal_perception.runtime.engine import Arrays, Engine, EngineError, blank_inputs
from multimodal_perception.runtime.onnxruntime import available_cores
from multimodal_perception.runtime.open_model import open_one
from multimodal_perception.runtime.quantization import recorded_inputs
from multimodal_perception.runtime.settings import EngineName, Precision, RuntimeConfig

DEFAULT_SECONDS = 10.0
MIN_RUNS, WARM_UP = 5, 3
# Each engine, and TensorRT at each precision.
COLUMNS: tuple[tuple[EngineName, Precision], ...] = (
    ("tensorrt", "fp32"),
    ("tensorrt", "fp16"),
    ("tensorrt", "int8"),
    ("tensorrt_rtx", "fp32"),
    ("tensorrt_rtx", "fp16"),
    ("tensorrt_rtx", "int8"),
    ("onnxruntime", "fp32"),
    ("torch", "fp32"),
)


def run(args: Namespace) -> dict[str, Any]:
    """Milliseconds a run by engine; where one cannot run, why."""
    if args.model is None:
        raise UserError("bench engine: name a model, such as one of config/models, or its folder")
    card = load_card(args.model)
    source, frames = inputs_of(card, args.inputs)
    engines, report = open_all(card, args.threads)
    if not engines:
        raise UserError(f"{card.source}: no engine works: {report}")
    take_turns(engines, frames, args.seconds or DEFAULT_SECONDS)
    for name, engine in engines.items():
        report[name] = {"device": engine.device, **engine.timings.summary(), **report[name]}
    best = min(engines, key=lambda name: report[name]["p50_ms"])
    return {
        "model": card.name,
        "inputs": source,
        "threads": args.threads or available_cores(),
        "engines": report,
        "fastest": best,
        **ratio(report),
    }


def inputs_of(card: ModelCard, path: Path | None) -> tuple[str, list[Arrays]]:
    """What the engines are fed: a recording's frames, the synthetic street's, or blanks."""
    if path is not None:
        return str(path), list(recorded_inputs(path, card, 8))
    known = ARCHITECTURES.get(card.architecture)
    if known is not None and known.frame_inputs:
        try:
            return "synthetic", list(recorded_inputs(Path("synthetic"), card, 8))
        except UserError as error:  # a street without the sensors that the network takes
            return f"blank ({error})", [blank_inputs(card.inputs)]
    return "blank", [blank_inputs(card.inputs)]


def open_all(card: ModelCard, threads: int) -> tuple[dict[str, Engine], dict[str, Any]]:
    """The engines that work, and for each what it took to load or why it does not work."""
    engines: dict[str, Engine] = {}
    report: dict[str, Any] = {}
    config = RuntimeConfig(threads=threads, warm_up=WARM_UP)
    for name, precision in COLUMNS:
        label = f"{name}_{precision}" if name.startswith("tensorrt") else name
        start = time.perf_counter()
        try:
            wanted = dataclasses.replace(config, precision=precision)
            engines[label] = open_one(name, card, wanted)
        except EngineError as error:
            report[label] = {"not_used": str(error)}
            continue
        report[label] = {"load_s": time.perf_counter() - start}
    return engines, report


def take_turns(engines: dict[str, Engine], frames: list[Arrays], seconds: float) -> None:
    """Run all engines in turn on frame after frame; their own clocks measure."""
    for engine in engines.values():
        engine.run(frames[0])
        engine.timings.clear()
    end = time.perf_counter() + seconds
    for turn in range(10**6):
        for engine in engines.values():
            engine.run(frames[turn % len(frames)])
        if turn + 1 >= MIN_RUNS and time.perf_counter() >= end:
            return


def ratio(report: dict[str, Any]) -> dict[str, float]:
    """How many times faster ONNX Runtime is than torch eager, where both ran."""
    ours, theirs = (report[name].get("p50_ms", np.nan) for name in ("onnxruntime", "torch"))
    return {} if np.isnan(ours + theirs) else {"torch_over_onnxruntime": theirs / ours}
