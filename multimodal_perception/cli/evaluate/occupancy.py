"""`evaluate occupancy`: occupancy metrics on simulated drives and on labelled real frames."""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from multimodal_perception.cli.drive_options import add_profile_argument, parse_seeds
from multimodal_perception.cli.evaluate.report_options import (
    PICTURES,
    add_report_arguments,
    check_files,
    configuration_text,
    finish,
)
from multimodal_perception.cli.executor import (
    Outcome,
    add_executor_arguments,
    executor_from,
    report_failures,
    resume_folder,
    run_drives,
)
from multimodal_perception.cli.finished_drives import FinishedDrives
from multimodal_perception.cli.inputs import INPUTS_HELP, expand_inputs
from multimodal_perception.configuration import UserError, load
from multimodal_perception.evaluation.html_report import Report, ReportTable
from multimodal_perception.evaluation.occupancy_report import occupancy_report
from multimodal_perception.evaluation.worst_pictures import WorstPictures
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
    parser.add_argument(
        "--root",
        nargs="+",
        metavar="PATH",
        help=f"labelled data set (KITTI, nuScenes) to evaluate as well{INPUTS_HELP}",
    )
    parser.add_argument(
        "--pipeline",
        type=Path,
        help="YAML file with the keys below `pipeline:` of config/perception.yaml",
    )
    parser.add_argument("--json", type=Path, help="write the result to this JSON file")
    add_report_arguments(parser)
    add_executor_arguments(parser)


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
    drives, result, failed = _simulated(args, config)
    if drives is None:
        return 2
    if args.root is not None:
        real, failed_roots = _recorded(args, config)
        failed += failed_roots
        if real is not None:
            result["real"] = real
    _print(result)
    text = configuration_text("evaluate occupancy", args, config)

    def build(other: Any, criteria: ReportTable | None) -> Report:
        pictures = drives.worst.pictures()
        return occupancy_report(result, drives.times_ms, pictures, text, other, criteria)

    return max(finish(args, result, build), int(failed > 0))


def _simulated(args: argparse.Namespace, config: Any) -> tuple[Any, dict[str, Any], int]:
    """The merged result of all simulated drives (None without any), its figures, and failed drives."""
    from multimodal_perception.cli.evaluate.occupancy_jobs import (
        CONDITIONS,
        SimulatedDriveJob,
        SimulatedDriveResult,
        run_simulated_drive,
    )
    from multimodal_perception.evaluation.occupancy_drives import KNOWN_CONDITIONS
    from multimodal_perception.pipeline_builder import build_pipeline

    open_rig(args.rig)  # an unusable rig is one error and not one for each drive
    true_masks = build_pipeline(config).segmenter is None
    pictures = PICTURES if args.report is not None else 0
    jobs = [
        SimulatedDriveJob(
            config,
            seed,
            condition,
            args.rig,
            args.frames,
            args.max_range,
            args.profile,
            true_masks,
            pictures,
        )
        for seed in parse_seeds(args.seeds)
        for condition in CONDITIONS
    ]
    outcomes = _run(args, "evaluate-occupancy", run_simulated_drive, jobs, [j.name for j in jobs])
    total = SimulatedDriveResult(WorstPictures(pictures))
    done = [job for job, outcome in zip(jobs, outcomes, strict=True) if outcome.result is not None]
    for outcome in outcomes:
        if outcome.result is not None:
            total.merge(outcome.result)
    if not done:
        return None, {}, len(jobs)
    metrics = total.scores.metrics()
    metrics["frames"] = sum(job.frames for job in done if job.condition in KNOWN_CONDITIONS)
    metrics["masks"] = "simulated truth" if true_masks else "pipeline"
    return total, metrics, len(jobs) - len(done)


def _recorded(args: argparse.Namespace, config: Any) -> tuple[dict[str, Any] | None, int]:
    """Figures of all recorded data sets (None without any), and the number that failed."""
    from multimodal_perception.cli.evaluate.occupancy_jobs import (
        RecordedDriveJob,
        run_recorded_drive,
    )

    jobs = [RecordedDriveJob(root, config) for root in expand_inputs(args.root)]
    if len(jobs) == 1:
        total = run_recorded_drive(jobs[0])  # raises UserError for data that cannot be read
        return {**total.score.metrics(), "frames": total.frames}, 0
    outcomes = _run(
        args, "evaluate-occupancy-real", run_recorded_drive, jobs, [j.root for j in jobs]
    )
    results = [o.result for o in outcomes if o.result is not None]
    for result in results[1:]:
        results[0].merge(result)
    failed = len(jobs) - len(results)
    if not results:
        return None, failed
    return {**results[0].score.metrics(), "frames": results[0].frames}, failed


def _run(
    args: argparse.Namespace,
    command: str,
    function: Callable[[Any], Any],
    jobs: Sequence[Any],
    names: Sequence[str],
) -> list[Outcome[Any]]:
    """Run the jobs with the executor; finished ones of an interrupted run are not run again."""
    folder = resume_folder(args, command, jobs)
    finished = FinishedDrives(folder if args.resume is None else folder / command)
    outcomes = run_drives(function, jobs, names, executor_from(args), finished)
    if not report_failures(outcomes):
        finished.remove()
    return outcomes


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
