"""Benchmarks of a source checkout, side by side with peers where there are any."""

from __future__ import annotations

import argparse
import importlib.util
import sys
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from rich.console import Console
from rich.table import Table

from multimodal_perception.configuration import UserError
from multimodal_perception.evaluation.report import write_json

FOLDER = Path(__file__).resolve().parents[2] / "benchmarks"
FILES = {
    "sync": "synchronizer.py",
    "intake": "intake.py",
    "evaluators": "evaluators.py",
    "simulate": "simulation.py",
    "occupancy": "occupancy.py",
    "engine": "engine.py",
    "detector": "detector.py",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("what", choices=tuple(FILES))
    parser.add_argument(
        "model", nargs="?", help="engine, detector: a model's name, or the folder of its card"
    )
    parser.add_argument("--json", type=Path, help="file for the result")
    parser.add_argument(
        "--seconds", type=float, help="how long (intake: 60 by default, detector 20, engine 10)"
    )
    parser.add_argument(
        "--peer",
        type=Path,
        help="sync: folder with the package message_filters; evaluators: a Python with nuscenes-devkit; "
        "occupancy: a Python with pyoctomap; detector: a checkout of zhulf0804/PointPillars",
    )
    parser.add_argument(
        "--kitti",
        type=Path,
        help="evaluators: a KITTI evaluator's eval.py; simulate, occupancy, detector: KITTI's "
        "training folder",
    )
    parser.add_argument("--scenario", help="simulate: which one (urban_street by default)")
    parser.add_argument("--frames", type=int, help="simulate: how many (60 by default)")
    parser.add_argument("--workers", type=int, help="simulate: processes (one a core by default)")
    parser.add_argument("--inputs", type=Path, help="engine: bag, dataset or .npz files to feed it")
    parser.add_argument(
        "--threads", type=int, default=0, help="engine, detector: of the CPU; 0 is all cores"
    )


def run(args: argparse.Namespace) -> int:
    if args.seconds is not None and not args.seconds > 0:
        raise UserError("--seconds must be above 0")
    for name in ("frames", "workers"):
        value = getattr(args, name)
        if value is not None and not 1 <= value <= 10_000:
            raise UserError(f"--{name}: allowed: 1 to 10000; got {value}")
    result = load_benchmark(args.what).run(args)
    table = Table(title=f"bench {args.what}")
    table.add_column("figure")
    table.add_column("value", justify="right")
    for name, value in _flat(result):
        table.add_row(name, f"{value:.3f}" if isinstance(value, float) else str(value))
    Console().print(table)
    if args.json is not None:
        write_json(args.json, result)
    return 0


def load_benchmark(name: str) -> ModuleType:
    """The module of a benchmark. Raises UserError outside a source checkout."""
    path = FOLDER / FILES[name]
    if not path.is_file():
        raise UserError(f"{path}: benchmarks are in the source checkout alone, not installed")
    spec = importlib.util.spec_from_file_location(f"benchmark_{path.stem}", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def _flat(values: Mapping[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    rows: list[tuple[str, Any]] = []
    for key, value in values.items():
        if isinstance(value, Mapping):
            rows += _flat(value, f"{prefix}{key}.")
        else:
            rows.append((prefix + key, value))
    return rows
