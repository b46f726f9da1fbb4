"""Inference time of a model with every engine that is available on this machine, on the same inputs.

The engines run alternately, so that other load on the machine affects all of them. With --all, every
shipped model is measured; the model zoo in the documentation shows these times.
"""

from __future__ import annotations

import dataclasses
import platform
import time
from argparse import ArgumentParser, Namespace
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from multimodal_perception.benchmarks.report import (
    add_json_argument,
    add_seconds_argument,
    check_options,
    print_report,
)
from multimodal_perception.configuration import UserError
from multimodal_perception.datasets.network_inputs import recorded_inputs
from multimodal_perception.runtime.architectures import ARCHITECTURES
from multimodal_perception.runtime.card import ModelCard, load_card, shipped_cards
from multimodal_perception.runtime.engine import Arrays, Engine, EngineError, zero_inputs
from multimodal_perception.runtime.onnxruntime import available_cores
from multimodal_perception.runtime.open_model import open_single_engine
from multimodal_perception.runtime.settings import EngineName, Precision, RuntimeConfig

DEFAULT_SECONDS = 10.0
MIN_RUNS, WARM_UP = 5, 3
# The measured combinations: every engine, and TensorRT at each precision.
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


def add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument(
        "model",
        nargs="?",
        help="name of a shipped model, or a model folder with its card; either this or --all is "
        "required",
    )
    parser.add_argument(
        "--all", action="store_true", help="measure all shipped models, one after the other"
    )
    parser.add_argument(
        "--inputs",
        type=Path,
        help="bag, dataset or folder of .npz files with inputs (default: synthetic frames, or zeros)",
    )
    add_seconds_argument(parser, DEFAULT_SECONDS, "duration of the measurement of each model")
    parser.add_argument(
        "--threads", type=int, default=0, help="CPU threads per engine; 0 (default) uses all cores"
    )
    add_json_argument(parser)


def run(args: Namespace) -> int:
    check_options(args)
    if (args.model is None) != args.all:
        raise UserError("either the name of a model or --all is required")
    machine = {"cpu": cpu_name(), "threads": args.threads or available_cores()}
    if args.all:
        if args.inputs is not None:
            raise UserError("--inputs: only allowed for a single model")
        models = {
            path.parent.name: measure(str(path), None, args.seconds, args.threads)
            for path in tqdm(shipped_cards(), unit="model")
        }
        print_report("engine", {**machine, "models": models}, args.json)
    else:
        result = measure(args.model, args.inputs, args.seconds, args.threads)
        print_report(
            "engine", {"model": load_card(args.model).name, **machine, **result}, args.json
        )
    return 0


def measure(model: str, inputs: Path | None, seconds: float, threads: int) -> dict[str, Any]:
    """Milliseconds per run of each engine, or the reason why it cannot run.

    Raises UserError if no engine works.
    """
    card = load_card(model)
    source, frames = load_inputs(card, inputs)
    engines, report = open_engines(card, threads)
    if not engines:
        raise UserError(f"{card.source}: no engine works: {report}")
    run_alternately(engines, frames, seconds)
    for name, engine in engines.items():
        report[name] = {"device": engine.device, **engine.timings.summary(), **report[name]}
    best = min(engines, key=lambda name: report[name]["p50_ms"])
    return {"inputs": source, "engines": report, "fastest": best, **speed_ratio(report)}


def cpu_name() -> str:
    """Model name of the processor, as the operating system reports it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:  # not Linux
        lines = []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, "") or platform.processor() or platform.machine()


def load_inputs(card: ModelCard, path: Path | None) -> tuple[str, list[Arrays]]:
    """Name of the source and the inputs: recorded frames, synthetic frames, or zeros."""
    if path is not None:
        return str(path), list(recorded_inputs(path, card, 8))
    known = ARCHITECTURES.get(card.architecture)
    if known is not None and known.frame_inputs:
        try:
            return "synthetic", list(recorded_inputs(Path("synthetic"), card, 8))
        except UserError as error:  # the synthetic dataset has no such sensor
            return f"zeros ({error})", [zero_inputs(card.inputs)]
    return "zeros", [zero_inputs(card.inputs)]


def open_engines(card: ModelCard, threads: int) -> tuple[dict[str, Engine], dict[str, Any]]:
    """The engines that work, and a report with the load time of each or why it does not work."""
    engines: dict[str, Engine] = {}
    report: dict[str, Any] = {}
    config = RuntimeConfig(threads=threads, warm_up=WARM_UP)
    for name, precision in COLUMNS:
        label = f"{name}_{precision}" if name.startswith("tensorrt") else name
        start = time.perf_counter()
        try:
            settings = dataclasses.replace(config, precision=precision)
            engines[label] = open_single_engine(name, card, settings)
        except EngineError as error:
            report[label] = {"not_used": str(error)}
            continue
        report[label] = {"load_s": time.perf_counter() - start}
    return engines, report


def run_alternately(engines: dict[str, Engine], frames: list[Arrays], seconds: float) -> None:
    """Run all engines alternately on each frame; the time is recorded in `Engine.timings`."""
    for engine in engines.values():
        engine.run(frames[0])
        engine.timings.clear()
    end = time.perf_counter() + seconds
    for round_index in range(10**6):
        for engine in engines.values():
            engine.run(frames[round_index % len(frames)])
        if round_index + 1 >= MIN_RUNS and time.perf_counter() >= end:
            return


def speed_ratio(report: dict[str, Any]) -> dict[str, float]:
    """Time of torch eager divided by the time of ONNX Runtime; empty unless both ran."""
    onnxruntime, torch = (report[name].get("p50_ms", np.nan) for name in ("onnxruntime", "torch"))
    return {} if np.isnan(onnxruntime + torch) else {"torch_over_onnxruntime": torch / onnxruntime}
