"""Inference time of a model with every engine that is available on this machine, on the same inputs.

The engines run alternately, so that other load on the machine affects all of them. With --all, every
shipped model is measured; the model zoo in the documentation shows these times.
"""

from __future__ import annotations

import dataclasses
import time
from argparse import ArgumentParser, Namespace
from pathlib import Path
from typing import Any

from tqdm import tqdm

from multimodal_perception.benchmarks.report import (
    add_json_argument,
    add_seconds_argument,
    check_options,
    print_report,
)
from multimodal_perception.configuration import UserError
from multimodal_perception.datasets.network_inputs import recorded_inputs
from multimodal_perception.runtime.card import ModelCard, load_card, shipped_cards
from multimodal_perception.runtime.engine import Arrays, Engine, EngineError
from multimodal_perception.runtime.onnxruntime import available_cores
from multimodal_perception.runtime.open_model import open_single_engine
from multimodal_perception.runtime.output_difference import output_differences
from multimodal_perception.runtime.processor import processor_name
from multimodal_perception.runtime.sample_inputs import sample_inputs
from multimodal_perception.runtime.settings import EngineName, Precision, RuntimeConfig

DEFAULT_SECONDS = 10.0
MIN_RUNS, WARM_UP, SAMPLE_FRAMES = 5, 3, 3
# The measured combinations: every engine at each precision that it may have.
COLUMNS: tuple[tuple[EngineName, Precision], ...] = (
    ("tensorrt", "fp32"),
    ("tensorrt", "fp16"),
    ("tensorrt", "int8"),
    ("tensorrt_rtx", "fp32"),
    ("tensorrt_rtx", "fp16"),
    ("tensorrt_rtx", "int8"),
    ("openvino", "fp32"),
    ("openvino", "bf16"),
    ("openvino", "int8"),
    ("onnxruntime", "fp32"),
    ("onnxruntime", "int8"),
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
        help="bag, dataset or folder of .npz files with inputs (default: synthetic frames)",
    )
    parser.add_argument(
        "--cache",
        default="",
        help="cache folder with the int8 models of `export int8` (default: the user's)",
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
    machine = {"cpu": processor_name(), "threads": args.threads or available_cores()}
    config = RuntimeConfig(threads=args.threads, cache=args.cache, warm_up=WARM_UP)
    if args.all:
        if args.inputs is not None:
            raise UserError("--inputs: only allowed for a single model")
        models = {
            path.parent.name: measure(str(path), None, args.seconds, config)
            for path in tqdm(shipped_cards(), unit="model")
        }
        print_report("engine", {**machine, "models": models}, args.json)
    else:
        result = measure(args.model, args.inputs, args.seconds, config)
        print_report(
            "engine", {"model": load_card(args.model).name, **machine, **result}, args.json
        )
    return 0


def measure(
    model: str, inputs: Path | None, seconds: float, config: RuntimeConfig
) -> dict[str, Any]:
    """Milliseconds per run of each engine and its difference from the reference, or why it cannot run.

    Raises UserError if no engine works.
    """
    card = load_card(model)
    source, frames = load_inputs(card, inputs)
    engines, report = open_engines(card, config)
    if not engines:
        raise UserError(f"{card.source}: no engine works: {report}")
    run_alternately(engines, frames, seconds)
    expected = _reference_outputs(card, config, frames[0])
    for name, engine in engines.items():
        report[name] = {"device": engine.device, **engine.timings.summary(), **report[name]}
        if expected is not None:
            differences = output_differences(card, expected, engine.run(frames[0]))
            report[name]["difference"] = max(differences.values())
    best = min(engines, key=lambda name: report[name]["p50_ms"])
    return {"inputs": source, "engines": report, "fastest": best, **speed_ratio(report)}


def load_inputs(card: ModelCard, path: Path | None) -> tuple[str, list[Arrays]]:
    """Name of the source and the inputs: of recorded or synthetic frames (see sample_inputs)."""
    if path is not None:
        return str(path), list(recorded_inputs(path, card, 8))
    return "synthetic frames", [sample_inputs(card, seed) for seed in range(SAMPLE_FRAMES)]


def open_engines(
    card: ModelCard, config: RuntimeConfig
) -> tuple[dict[str, Engine], dict[str, Any]]:
    """The engines that work, and a report with the load time of each or why it does not work."""
    engines: dict[str, Engine] = {}
    report: dict[str, Any] = {}
    for name, precision in COLUMNS:
        has_precisions = name in ("openvino", "tensorrt", "tensorrt_rtx") or precision != "fp32"
        label = f"{name}_{precision}" if has_precisions else name
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
    """Time of ONNX Runtime in fp32 divided by that of the fastest engine, and of torch divided by it.

    Empty without ONNX Runtime.
    """
    times = {name: r["p50_ms"] for name, r in report.items() if "p50_ms" in r}
    if "onnxruntime" not in times:
        return {}
    ratios = {"times_faster_than_onnxruntime": times["onnxruntime"] / min(times.values())}
    if "torch" in times:
        ratios["torch_over_onnxruntime"] = times["torch"] / times["onnxruntime"]
    return ratios


def _reference_outputs(card: ModelCard, config: RuntimeConfig, frame: Arrays) -> Arrays | None:
    """Outputs of ONNX Runtime in float32 on the CPU; None if it cannot run."""
    cpu = dataclasses.replace(config, device="cpu", precision="fp32")
    try:
        return open_single_engine("onnxruntime", card, cpu).run(frame)
    except EngineError:
        return None
