"""Check of a computer with an NVIDIA GPU: engines, precisions, agreement, latency, memory, CUDA graphs.

scripts/gpu_check.sh installs the GPU libraries from wheels and runs this module. Each step runs in a
process of its own with a time limit, so that a crash of a driver or library is a result and does not end
the check. Writes gpu_check.json and gpu_check.md. With --dry-run, everything except the execution on
the GPU is done: imports, sample inputs, reference outputs, int8 calibration, and building of engines
with TensorRT-RTX.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from multimodal_perception.configuration import UserError
from multimodal_perception.evaluation.report import write_json
from multimodal_perception.npz_reader import read_npz
from multimodal_perception.runtime.card import load_card
from multimodal_perception.runtime.cuda import Gpu
from multimodal_perception.runtime.engine import EngineError
from multimodal_perception.runtime.open_model import open_single_engine
from multimodal_perception.runtime.output_difference import TOLERANCES, output_differences
from multimodal_perception.runtime.processor import processor_name
from multimodal_perception.runtime.sample_inputs import sample_inputs
from multimodal_perception.runtime.settings import EngineName, Precision, RuntimeConfig

MODELS = ("bev_fusion", "bev_fusion_camera", "bev_fusion_refinement", "segmentation")
TIME_LIMIT_S, STEP_LIMIT_S = 480.0, 120.0
RUNS, WARM_UP, CALIBRATION_FRAMES = 50, 5, 4
# Compute capability for which a dry run builds engines without a GPU.
DRY_RUN_CAPABILITY = (8, 9)


@dataclasses.dataclass(frozen=True)
class Step:
    """One step: a network with an engine and a precision. graph: replay launches as a CUDA graph."""

    model: str
    engine: EngineName
    precision: Precision = "fp32"
    graph: bool = True

    @property
    def name(self) -> str:
        graph = "" if self.graph else " without CUDA graph"
        return f"{self.model} {self.engine} {self.precision}{graph}"


def all_steps(models: Sequence[str]) -> list[Step]:
    """All steps in order; the most important ones first, because the time is limited."""
    engines: list[tuple[EngineName, Precision]] = [
        ("onnxruntime", "fp32"),
        ("tensorrt", "fp16"),
        ("tensorrt_rtx", "fp16"),
        ("torch", "fp32"),
        ("tensorrt", "fp32"),
        ("tensorrt_rtx", "fp32"),
        ("tensorrt", "int8"),
        ("tensorrt_rtx", "int8"),
    ]
    steps = [Step(model, *engine) for engine in engines for model in models]
    libraries: tuple[EngineName, ...] = ("tensorrt", "tensorrt_rtx")
    return steps + [Step(models[0], library, "fp16", graph=False) for library in libraries]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the check. Returns 0 if at least one engine runs on the GPU, or after a dry run."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else "")
    parser.add_argument("--out", type=Path, default=Path("out/gpu_check"), help="output folder")
    parser.add_argument("--models", nargs="+", default=list(MODELS), help="models to check")
    parser.add_argument(
        "--time-limit", type=float, default=TIME_LIMIT_S, help="of the whole check, seconds"
    )
    parser.add_argument("--dry-run", action="store_true", help="do not run anything on a GPU")
    parser.add_argument("--golden", type=Path, help="file of golden detections to compare with")
    # One step (JSON), or the inputs and reference outputs of one model, in a process of their own.
    parser.add_argument("--step", help=argparse.SUPPRESS)
    parser.add_argument("--prepare", help=argparse.SUPPRESS)
    args = parser.parse_args(arguments)
    if args.step is not None:
        print(json.dumps(run_step(Step(**json.loads(args.step)), args.out, args.dry_run)))
        return 0
    if args.prepare is not None:
        print(json.dumps(prepare(args.prepare, args.out)))
        return 0
    if not 10.0 <= args.time_limit <= 3600.0:
        raise UserError(f"--time-limit: allowed: 10 to 3600 s; got {args.time_limit:g}")
    report = check(args.out, args.models, args.time_limit, args.dry_run, args.golden)
    args.out.mkdir(parents=True, exist_ok=True)
    write_json(args.out / "gpu_check.json", report)
    table = markdown(report)
    (args.out / "gpu_check.md").write_text(table, encoding="utf-8")
    print(table)
    worked = any("p50_ms" in r and "cuda" in r.get("device", "") for r in report["steps"])
    return 0 if worked or args.dry_run else 1


def check(
    out: Path, models: Sequence[str], limit_s: float, dry_run: bool, golden: Path | None
) -> dict[str, Any]:
    """Run all steps within the time limit and return the report. Raises UserError for a wrong model."""
    end = time.monotonic() + limit_s
    for model in models:
        load_card(model)
    report: dict[str, Any] = {"machine": machine(), "dry_run": dry_run, "steps": []}
    prepared = []
    for model in models:
        limit = max(min(end - time.monotonic(), STEP_LIMIT_S), 1.0)
        result = run_json([*_command(out), "--prepare", model], limit)
        if "not_run" in result:
            report["steps"].append({"step": f"{model} inputs and reference", **result})
        else:
            prepared.append(model)
    for step in all_steps(prepared):
        remaining_s = end - time.monotonic()
        if remaining_s < 1.0:
            report["steps"].append({"step": step.name, "not_run": "the time limit was reached"})
            continue
        result = _run_in_process(step, out, dry_run, min(remaining_s, STEP_LIMIT_S))
        report["steps"].append({"step": step.name, **result})
        print(f"{step.name}: {_summary(result)}", flush=True)
    if golden is not None and not dry_run:
        report["golden"] = _compare_golden(golden, end)
    return report


def machine() -> dict[str, Any]:
    """GPU, driver and library versions, or why there is no GPU."""
    result: dict[str, Any] = {"cpu": processor_name(), "python": platform.python_version()}
    try:
        gpu = Gpu(0)
        result["gpu"] = gpu.name
        result["compute_capability"] = ".".join(map(str, gpu.capability))
        free, total = gpu.memory_bytes()
        result["gpu_memory_mib"], result["gpu_memory_free_mib"] = total >> 20, free >> 20
        result["cuda_driver"] = gpu.driver_version
    except EngineError as error:
        result["gpu"] = f"none: {error}"
    for module in ("torch", "onnxruntime", "tensorrt", "tensorrt_rtx"):
        code = f"import {module} as m; print(m.__version__)"
        found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
        lines = (found.stdout if found.returncode == 0 else found.stderr).strip().splitlines()
        result[module] = lines[-1] if lines else "no output"
    return result


def run_step(step: Step, out: Path, dry_run: bool) -> dict[str, Any]:
    """Run one step in this process; return its figures, or `not_run` with the reason."""
    card = load_card(step.model)
    device: Literal["cpu", "cuda"] = "cpu" if dry_run else "cuda"
    config = RuntimeConfig(
        order=(step.engine,),
        device=device,
        precision=step.precision,
        cache=str(out / "engines"),
        cuda_graph=step.graph,
    )
    try:
        arrays, expected = read_npz(_path(out, step.model)), read_npz(_path(out, step.model, True))
        if dry_run and step.engine.startswith("tensorrt"):
            return _build_only(step, config)
        before = None if dry_run else Gpu(0).memory_bytes()[0]
        start = time.perf_counter()
        engine = open_single_engine(step.engine, card, config)
        result: dict[str, Any] = {"load_s": time.perf_counter() - start, "device": engine.device}
        times = []
        for run in range(WARM_UP + (1 if dry_run else RUNS)):
            start = time.perf_counter()
            outputs = engine.run(arrays)
            if run >= WARM_UP:
                times.append(1e3 * (time.perf_counter() - start))
        result["p50_ms"], result["p95_ms"] = map(float, np.percentile(times, (50, 95)))
        if before is not None:
            result["gpu_memory_mib"] = (before - Gpu(0).memory_bytes()[0]) >> 20
        differences = output_differences(card, expected, outputs)
        worst = max(differences.values())
        return {**result, "difference": worst, "agrees": worst <= TOLERANCES[step.precision]}
    except (EngineError, UserError) as error:
        return {"not_run": str(error)}


def prepare(model: str, out: Path) -> dict[str, Any]:
    """Write a model's inputs, its reference outputs and its int8 version into the output folder."""
    from multimodal_perception.runtime.precision import calibrated_path
    from multimodal_perception.runtime.quantization import quantize_int8

    card = load_card(model)
    reference = RuntimeConfig(order=("onnxruntime",), device="cpu", precision="fp32")
    try:
        frames = [sample_inputs(card, seed) for seed in range(CALIBRATION_FRAMES)]
        expected = open_single_engine("onnxruntime", card, reference).run(frames[0])
        path = calibrated_path(card, out / "engines")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(quantize_int8(card, frames))
        np.savez(_path(out, model), **dict(frames[0]))  # type: ignore[arg-type]
        np.savez(_path(out, model, True), **expected)  # type: ignore[arg-type]
    except (EngineError, UserError, OSError) as error:
        return {"not_run": str(error)}
    return {"prepared": model}


def _path(out: Path, model: str, outputs: bool = False) -> Path:
    return out / "engines" / f"{load_card(model).name}-{'outputs' if outputs else 'inputs'}.npz"


def _command(out: Path) -> list[str]:
    module = "multimodal_perception.benchmarks.gpu_check"
    return [sys.executable, "-m", module, "--out", str(out)]


def _build_only(step: Step, config: RuntimeConfig) -> dict[str, Any]:
    """Build an engine without a GPU. Raises EngineError."""
    from multimodal_perception.runtime.tensorrt import ANY_GPU, Library, Target, plan_for

    library = Library(step.engine)  # type: ignore[arg-type]
    if not library.capabilities():
        raise EngineError(f"{step.engine} builds only on a GPU")
    start = time.perf_counter()
    plan = plan_for(library, load_card(step.model), config, Target(ANY_GPU, DRY_RUN_CAPABILITY))
    return {"built_mib": len(plan) / 2**20, "load_s": time.perf_counter() - start}


def _run_in_process(step: Step, out: Path, dry_run: bool, limit_s: float) -> dict[str, Any]:
    command = [*_command(out), "--step", json.dumps(dataclasses.asdict(step))]
    if dry_run and step.engine == "torch":
        return {"not_run": "a dry run does not run torch"}
    if dry_run:
        command.append("--dry-run")
    return run_json(command, limit_s)


def run_json(command: Sequence[str], limit_s: float) -> dict[str, Any]:
    """Run a command that prints JSON in its last line; `not_run` with the reason if it fails."""
    with tempfile.TemporaryFile("w+") as errors:
        try:
            done = subprocess.run(
                list(command), stdout=subprocess.PIPE, stderr=errors, text=True, timeout=limit_s
            )
        except subprocess.TimeoutExpired:
            return {"not_run": f"no result within {limit_s:.0f} s"}
        errors.seek(0)
        text = errors.read().strip().splitlines()
    try:
        return dict(json.loads(done.stdout.strip().splitlines()[-1]))
    except (ValueError, IndexError):
        reason = text[-1] if text else "no output"
        return {"not_run": f"exit status {done.returncode}: {reason}"}


def _compare_golden(path: Path, end: float) -> dict[str, Any]:
    """Compare the detections of the fusion detector on the GPU with stored ones, by engine."""
    results: dict[str, Any] = {}
    engines: tuple[EngineName, ...] = ("tensorrt", "tensorrt_rtx", "onnxruntime", "torch")
    for engine in engines:
        code = (
            "import json, sys; from pathlib import Path\n"
            "from multimodal_perception.evaluation.agreement import compare_with_golden as compare\n"
            "a = compare('bev_fusion', sys.argv[1], Path(sys.argv[2]), 'cuda')\n"
            "print(json.dumps({'compared': a.compared, 'unmatched': a.unmatched, "
            "'largest_difference': max(a.max_differences.values(), default=0.0)}))"
        )
        remaining_s = max(min(end - time.monotonic(), STEP_LIMIT_S), 1.0)
        results[engine] = run_json([sys.executable, "-c", code, engine, str(path)], remaining_s)
    return results


def _summary(result: dict[str, Any]) -> str:
    if "not_run" in result:
        return f"not run: {result['not_run']}"
    if "p50_ms" not in result:
        return f"built, {result['built_mib']:.1f} MiB"
    agrees = "agrees" if result["agrees"] else "DIFFERS"
    return f"{result['p50_ms']:.2f} ms, {agrees} ({100 * result['difference']:.2f} %)"


def markdown(report: dict[str, Any]) -> str:
    """The report as Markdown: the machine, and one row per step."""
    lines = ["# GPU check", ""]
    lines += [f"- {name}: {value}" for name, value in report["machine"].items()]
    lines += ["", "| step | p50 ms | p95 ms | difference | GPU memory MiB | load s | result |"]
    lines.append("|---|---|---|---|---|---|---|")
    columns: tuple[tuple[str, Callable[[Any], str]], ...] = (
        ("p50_ms", "{:.2f}".format),
        ("p95_ms", "{:.2f}".format),
        ("difference", "{:.2%}".format),
        ("gpu_memory_mib", str),
        ("load_s", "{:.1f}".format),
    )
    for result in report["steps"]:
        cells = [show(result[key]) if key in result else "" for key, show in columns]
        state = result.get("not_run") or ("ok" if result.get("agrees", True) else "DIFFERS")
        lines.append(f"| {result['step']} | {' | '.join(cells)} | {state} |")
    for engine, result in report.get("golden", {}).items():
        lines += ["", f"- golden detections, {engine}: {json.dumps(result)}"]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    try:
        sys.exit(main())
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
