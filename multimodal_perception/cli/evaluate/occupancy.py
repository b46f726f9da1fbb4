"""`evaluate occupancy`: occupancy metrics on simulated drives and on labelled real frames."""

from __future__ import annotations

import argparse
import math
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from tqdm import tqdm

from multimodal_perception.cli.drive_options import add_profile_argument, parse_seeds
from multimodal_perception.cli.evaluate.report_options import (
    PICTURES,
    add_report_arguments,
    check_files,
    configuration_text,
    finish,
)
from multimodal_perception.configuration import UserError, load
from multimodal_perception.evaluation.html_report import Report, ReportTable
from multimodal_perception.evaluation.occupancy_report import occupancy_report
from multimodal_perception.evaluation.worst_pictures import (
    WorstPictures,
    draw_grid_errors,
    grid_errors,
)
from multimodal_perception.perception import OccupancyGrid
from multimodal_perception.simulation.rigs import RIG_HELP, open_rig

COLUMNS = ("iou_occupied", "iou_free", "false_free", "false_occupied", "ece", "unknown", "conflict")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--seeds",
        default="10000..10004",
        metavar="A..B",
        help="random seeds of the simulated drives, both ends included",
    )
    parser.add_argument("--frames", type=int, default=8, help="consecutive frames of each drive")
    add_profile_argument(parser)
    parser.add_argument("--rig", default="simulation", help=RIG_HELP)
    parser.add_argument(
        "--max-range", type=float, default=30.0, help="maximum distance of the cells, metres"
    )
    parser.add_argument("--root", help="labelled dataset (KITTI, nuScenes) to evaluate as well")
    parser.add_argument(
        "--pipeline",
        type=Path,
        help="YAML file with the keys below `pipeline:` of config/perception.yaml",
    )
    parser.add_argument("--json", type=Path, help="write the result to this JSON file")
    add_report_arguments(parser)


def run(args: argparse.Namespace) -> int:
    from multimodal_perception.pipeline_builder import PipelineConfig

    config = PipelineConfig() if args.pipeline is None else load(PipelineConfig, args.pipeline)
    if config.occupancy == "none":
        raise UserError("--pipeline: occupancy: none; a mapper is needed for the evaluation")
    if not 1 <= args.frames <= 10_000:
        raise UserError(f"--frames: allowed: 1 to 10000; got {args.frames}")
    if not 2.0 <= args.max_range <= 60.0:
        raise UserError(f"--max-range: allowed: 2 to 60 m; got {args.max_range:g}")
    check_files(args)
    worst = WorstPictures(PICTURES if args.report is not None else 0)
    times_ms: list[float] = []
    result = _simulated(args, config, worst, times_ms)
    if args.root is not None:
        result["real"] = _real(args.root, config)
    _print(result)
    text = configuration_text("evaluate occupancy", args, config)

    def build(other: Any, criteria: ReportTable | None) -> Report:
        return occupancy_report(result, times_ms, worst.pictures(), text, other, criteria)

    return finish(args, result, build)


def _simulated(
    args: argparse.Namespace, config: Any, worst: WorstPictures, times_ms: list[float]
) -> dict[str, Any]:
    from multimodal_perception.evaluation.occupancy_drives import (
        HELD_OUT_CONDITIONS,
        KNOWN_CONDITIONS,
        DriveScores,
        score_drive,
        simulate,
    )
    from multimodal_perception.pipeline_builder import build_pipeline

    seeds, rig = parse_seeds(args.seeds), open_rig(args.rig)
    conditions = {**KNOWN_CONDITIONS, **HELD_OUT_CONDITIONS}
    scores = DriveScores()
    true_masks = build_pipeline(config).segmenter is None
    with tqdm(total=len(seeds) * len(conditions) * args.frames, unit="frame") as bar:
        for seed in seeds:
            for name, words in conditions.items():
                drive = simulate(seed, words, rig, args.frames, args.max_range, args.profile)
                factory = partial(build_pipeline, config)
                caption = f"{drive.scenario.name}, seed {seed}, {name}"
                on_grid = partial(_add_grid, worst, times_ms, caption)
                for _ in score_drive(
                    scores, drive, name, factory, true_masks, args.max_range, on_grid
                ):
                    bar.update()
    metrics = scores.metrics()
    metrics["frames"] = len(seeds) * len(KNOWN_CONDITIONS) * args.frames
    metrics["masks"] = "simulated truth" if true_masks else "pipeline"
    return metrics


def _add_grid(
    worst: WorstPictures,
    times_ms: list[float],
    caption: str,
    index: int,
    grid: OccupancyGrid,
    true_state: Any,
    milliseconds: float,
) -> None:
    """Keep the time and, if it is among the worst, the picture of a frame."""
    times_ms.append(milliseconds)
    if worst.count:
        error = grid_errors(grid, true_state)
        text = f"{caption}, frame {index}: {100 * error:.1f} % of the known cells wrong"
        worst.add(error, text, lambda: draw_grid_errors(grid, true_state))


def _real(root: str, config: Any) -> dict[str, Any]:
    from multimodal_perception.cli.recordings import open_recording
    from multimodal_perception.evaluation.occupancy import evaluate_occupancy
    from multimodal_perception.pipeline_builder import build_pipeline

    dataset = open_recording(root, None)
    pipeline = build_pipeline(config)

    def sources(frame: Any, cloud: Any) -> dict[str, Any]:
        return {"boxes": pipeline.detector.detect(frame, cloud)}

    def mapper() -> Any:
        return build_pipeline(config).occupancy

    metrics = evaluate_occupancy(dataset, mapper, sources=sources, ground=config.ground)
    return {**metrics["real"], "frames": metrics["frames"]}


def _print(result: dict[str, Any]) -> None:
    table = Table(title=f"occupancy, {result['frames']} simulated frames")
    table.add_column("sensors, condition")
    for name in COLUMNS:
        table.add_column(name, justify="right")
    for subset, metrics in result["by_subset"].items():
        for condition, values in metrics["by_condition"].items():
            cells = [f"{values[name]:.3f}" for name in COLUMNS]
            table.add_row(f"{subset}, {condition}", *cells)
    Console().print(table)
    for subset, metrics in result["by_subset"].items():
        contradiction = metrics["contradiction"]
        if not math.isnan(contradiction):
            print(
                f"{subset}: mean free mass of all other sources on the most contradicted ultrasonic "
                f"echo: {contradiction:.3f}"
            )
    for name, value in result.get("real", {}).items():
        print(f"real {name}: {value:.4f}" if isinstance(value, float) else f"real {name}: {value}")
