"""How far occupancy can be trusted: on simulated drives, and on labelled real frames."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from tqdm import tqdm

from multimodal_perception.cli.drive_options import parse_seeds
from multimodal_perception.configuration import UserError, load
from multimodal_perception.evaluation.report import write_json

COLUMNS = ("iou_occupied", "iou_free", "false_free", "false_occupied", "ece", "unknown", "conflict")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--seeds", default="10000..10004", help="simulated drives, A..B inclusive")
    parser.add_argument("--frames", type=int, default=8, help="frames in a row of each drive")
    parser.add_argument("--rig", default="simulation", help="rig file, or a shipped rig's name")
    parser.add_argument("--max-range", type=float, default=30.0, help="metres, of the figures")
    parser.add_argument("--root", help="a labelled dataset (KITTI, nuScenes) to score as well")
    parser.add_argument("--pipeline", type=Path, help="YAML file of PipelineConfig")
    parser.add_argument("--json", type=Path, help="file for the result")


def run(args: argparse.Namespace) -> int:
    from multimodal_perception.pipeline import PipelineConfig

    config = PipelineConfig() if args.pipeline is None else load(PipelineConfig, args.pipeline)
    if config.occupancy == "none":
        raise UserError("--pipeline: occupancy is none; there is nothing to score")
    if not 1 <= args.frames <= 10_000:
        raise UserError(f"--frames: allowed: 1 to 10000; got {args.frames}")
    if not 2.0 <= args.max_range <= 60.0:
        raise UserError(f"--max-range: allowed: 2 to 60 m; got {args.max_range:g}")
    result = _simulated(args, config)
    if args.root is not None:
        result["real"] = _real(args.root, config)
    _print(result)
    if args.json is not None:
        write_json(args.json, result)
    return 0


def _simulated(args: argparse.Namespace, config: Any) -> dict[str, Any]:
    from multimodal_perception.evaluation.occupancy_drives import (
        SEEN,
        UNSEEN,
        DriveScores,
        score_drive,
        simulate,
    )
    from multimodal_perception.pipeline import build_pipeline
    from multimodal_perception.rig import load_rig, rig_path

    seeds, rig = parse_seeds(args.seeds), load_rig(rig_path(args.rig))
    conditions = {**SEEN, **UNSEEN}
    scores = DriveScores()
    true_masks = build_pipeline(config).segmenter is None
    with tqdm(total=len(seeds) * len(conditions) * args.frames, unit="frame") as bar:
        for seed in seeds:
            for name, words in conditions.items():
                drive = simulate(seed, words, rig, args.frames, args.max_range)
                make = _fresh(config)
                for _ in score_drive(scores, drive, name, make, true_masks, args.max_range):
                    bar.update()
    figures = scores.figures()
    figures["frames"] = len(seeds) * len(SEEN) * args.frames
    figures["masks"] = "simulated truth" if true_masks else "pipeline"
    return figures


def _fresh(config: Any) -> Any:
    from multimodal_perception.pipeline import build_pipeline

    return lambda: build_pipeline(config)


def _real(root: str, config: Any) -> dict[str, Any]:
    from multimodal_perception.datasets.open_dataset import open_dataset
    from multimodal_perception.evaluation.occupancy import evaluate_occupancy
    from multimodal_perception.pipeline import build_pipeline

    dataset = open_dataset(root, None)
    pipeline = build_pipeline(config)

    def found(frame: Any, cloud: Any) -> dict[str, Any]:
        return {"boxes": pipeline.detector.detect(frame, cloud)}

    def mapper() -> Any:
        return build_pipeline(config).occupancy

    figures = evaluate_occupancy(dataset, mapper, sources=found, ground=config.ground)
    return {**figures["real"], "frames": figures["frames"]}


def _print(result: dict[str, Any]) -> None:
    table = Table(title=f"occupancy, {result['frames']} simulated frames")
    table.add_column("sensors, condition")
    for name in COLUMNS:
        table.add_column(name, justify="right")
    for subset, figures in result["by_subset"].items():
        for condition, values in figures["by_condition"].items():
            cells = [f"{values[name]:.3f}" for name in COLUMNS]
            table.add_row(f"{subset}, {condition}", *cells)
    Console().print(table)
    for subset, figures in result["by_subset"].items():
        share = figures["contradiction"]
        if share == share:
            print(f"{subset}: most contradicted ultrasonic echo {share:.3f} free to all else")
    for name, value in result.get("real", {}).items():
        print(f"real {name}: {value:.4f}" if isinstance(value, float) else f"real {name}: {value}")
