"""How good and how fast the pipeline is on labelled frames."""

from __future__ import annotations

import argparse
from pathlib import Path

from rich.console import Console
from rich.table import Table
from tqdm import tqdm

from multimodal_perception.configuration import load
from multimodal_perception.datasets.opening import DATASET_NAMES, PATH_HELP, open_dataset
from multimodal_perception.evaluation.detections import evaluate
from multimodal_perception.evaluation.report import write_json
from multimodal_perception.pipeline import PipelineConfig, build_pipeline

HELP = "score the pipeline on labelled data and time its stages"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--dataset", choices=DATASET_NAMES, help="what lies at --root")
    parser.add_argument("--root", default="synthetic", help=PATH_HELP)
    parser.add_argument("--detector", choices=("geometric",), default="geometric")
    parser.add_argument("--pipeline", type=Path, help="YAML file of PipelineConfig")
    parser.add_argument("--repeats", type=int, default=5, help="timed runs a frame")
    parser.add_argument("--json", type=Path, help="file for the result")


def run(args: argparse.Namespace) -> int:
    config = PipelineConfig() if args.pipeline is None else load(PipelineConfig, args.pipeline)
    dataset = open_dataset(args.root, args.dataset)
    pipeline = build_pipeline(config)
    pipeline.process(dataset[0])  # kernels of the stages that only real points reach
    result = evaluate(tqdm(dataset, unit="frame"), pipeline.process, args.repeats)
    table = Table(title=f"{dataset.name}: {result['frames']} frames")
    table.add_column("figure")
    table.add_column("value", justify="right")
    counts = result["counts"]
    table.add_row("recall_1m", f"{result['recall_1m']:.3f} ({counts['found']}/{counts['labels']})")
    row = f"{result['precision_1m']:.3f} ({counts['right']}/{counts['boxes']})"
    table.add_row("precision_1m", row)
    for stage, values in {"whole pipeline": result["latency_ms"], **result["stage_ms"]}.items():
        table.add_row(f"{stage} p50 / p95", f"{values['p50']:.1f} / {values['p95']:.1f} ms")
    Console().print(table)
    if args.json is not None:
        write_json(args.json, result)
    return 0
