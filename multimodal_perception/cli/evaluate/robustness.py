"""`evaluate robustness`: effect of corruptions of sensors and of attacks on each task."""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from multimodal_perception.cli.drive_options import (
    add_class_arguments,
    add_profile_argument,
    check_class_arguments,
    parse_seeds,
    requested_protocol,
)
from multimodal_perception.cli.evaluate.report_options import (
    add_report_arguments,
    check_files,
    configuration_text,
    finish,
    load_other,
)
from multimodal_perception.cli.evaluate.robustness_job import (
    RobustnessJob,
    RunnerOptions,
    opened_drive,
    run_job,
)
from multimodal_perception.cli.executor import (
    Outcome,
    add_executor_arguments,
    executor_from,
    report_failures,
    resume_folder,
    run_drives,
)
from multimodal_perception.cli.finished_drives import FinishedDrives, fingerprint
from multimodal_perception.cli.inputs import INPUTS_HELP, expand_inputs
from multimodal_perception.configuration import UserError, load
from multimodal_perception.datasets.open_dataset import DATASET_NAMES, PATH_HELP
from multimodal_perception.evaluation.html_report import Report, ReportPicture, ReportTable, number
from multimodal_perception.evaluation.robustness.catalogue import CORRUPTIONS, check_names
from multimodal_perception.evaluation.robustness.drive import DriveSource
from multimodal_perception.evaluation.robustness.figures import combine
from multimodal_perception.evaluation.robustness.plan import PlanOptions, plan_studies
from multimodal_perception.evaluation.robustness.report_page import (
    robustness_report,
    summary_table,
    weakest_text,
)
from multimodal_perception.evaluation.robustness.study import (
    ATTACKS,
    CLEAN,
    AttackEffort,
    Study,
    StudyResult,
)
from multimodal_perception.evaluation.robustness.tasks import TASKS
from multimodal_perception.pipeline_builder import PipelineConfig
from multimodal_perception.simulation.rigs import RIG_HELP, open_rig

COMMAND = "evaluate-robustness"
# Time of a gradient step relative to the task's time of a frame, for the estimate.
GRADIENT_STEP = 4.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--seeds", metavar="A..B", help="random seeds of simulated drives, both ends included"
    )
    parser.add_argument("--root", nargs="+", help=f"{PATH_HELP}{INPUTS_HELP}")
    parser.add_argument(
        "--dataset",
        choices=DATASET_NAMES,
        help="format of the data at --root; by default detected from the files",
    )
    parser.add_argument("--rig", default="simulation", help=RIG_HELP)
    add_profile_argument(parser)
    parser.add_argument(
        "--frames", type=int, default=4, help="evaluated frames of each drive (default: 4)"
    )
    parser.add_argument(
        "--frame-interval",
        type=int,
        default=5,
        metavar="N",
        help="evaluate every N-th frame (default: 5)",
    )
    parser.add_argument(
        "--tasks",
        nargs="+",
        default=list(TASKS),
        metavar="TASK",
        help=f"tasks to evaluate: {', '.join(TASKS)} (default: all)",
    )
    _add_study_arguments(parser)
    parser.add_argument(
        "--detector",
        help="auto, geometric, fusion, a plug-in, or the name or folder of a model (default: as in "
        "--pipeline)",
    )
    parser.add_argument(
        "--image-detector",
        help="image detector, or the name or folder of its model (default: as in --pipeline)",
    )
    parser.add_argument(
        "--segmenter",
        metavar="MODEL",
        help="name or folder of a segmentation model, also an imported one (default: as in --pipeline)",
    )
    parser.add_argument(
        "--pipeline",
        type=Path,
        help="YAML file with the keys below `pipeline:` of config/perception.yaml",
    )
    add_class_arguments(parser)
    parser.add_argument("--json", type=Path, help="write the result to this JSON file")
    add_report_arguments(parser)
    add_executor_arguments(parser)


def _add_study_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options that select corruptions and attacks."""
    parser.add_argument(
        "--set",
        dest="study_set",
        choices=("standard", "full"),
        default="standard",
        help="standard: severities 1, 3 and 5, two sensors of each modality, selected pairs; full: "
        "all severities, sensors and pairs (default: standard)",
    )
    parser.add_argument(
        "--corruptions",
        nargs="+",
        metavar="NAME",
        help=f"only these corruptions: {', '.join(CORRUPTIONS)}",
    )
    parser.add_argument(
        "--no-corruptions", action="store_true", help="leave out the corruptions: only attacks"
    )
    parser.add_argument(
        "--severities", nargs="+", type=int, metavar="K", help="only these severities, 1 to 5"
    )
    parser.add_argument(
        "--sensors", nargs="+", metavar="NAME", help="only these sensors of the rig; or ultrasonics"
    )
    parser.add_argument("--no-pairs", action="store_true", help="leave out pairs of sensors")
    parser.add_argument("--no-attacks", action="store_true", help="leave out the attacks")
    parser.add_argument(
        "--attack-steps", type=int, default=10, help="steps of the projected gradient (default: 10)"
    )
    parser.add_argument(
        "--attack-runs",
        type=int,
        default=30,
        help="runs of the pipeline of each attack without gradient (default: 30)",
    )
    parser.add_argument(
        "--random-seed", type=int, default=0, help="seed of corruptions and attacks"
    )


def run(args: argparse.Namespace) -> int:
    options = _plan_options(args)
    check_class_arguments(args)
    check_files(args)
    reference = load_other(args.other)
    runner = _runner_options(args)
    sources = _sources(args)
    plans = {s: _plan(s, runner, options) for s in sources}
    effort = AttackEffort(args.attack_steps, args.attack_runs, args.random_seed)
    jobs = [
        RobustnessJob(source, runner, study, effort, k == 0, _digest(source))
        for k, (source, studies) in enumerate(plans.items())
        for study in (Study("clean", CLEAN), *studies)
    ]
    outcomes = _run_jobs(args, jobs)
    failed = report_failures(outcomes, "studies")
    drives = _by_drive(jobs, outcomes)
    if not drives:
        return 2
    result = combine(list(drives.values()), requested_protocol(args), reference)
    result |= {
        "drives": [source.name for source in drives],
        "set": args.study_set,
        "detector": opened_drive(sources[-1], runner).runner.detector_name,
        "studies": max(len(studies) for studies in plans.values()),
        "processed_frames": sum(s.frames for d in drives.values() for r in d for s in r.settings),
    }
    _print(result, reference)
    pictures = _pictures([o.result for o in outcomes if o.result is not None])
    text = configuration_text("evaluate robustness", args, runner.config)

    def build(other: Any, criteria: ReportTable | None) -> Report:
        title = f"Robustness: detector {result['detector']}"
        return robustness_report(title, result, pictures, text, other, criteria)

    return max(finish(args, result, build), int(failed > 0))


def _plan_options(args: argparse.Namespace) -> PlanOptions:
    """Checks of the options that need no data. Raises UserError."""
    if (args.seeds is None) == (args.root is None):
        raise UserError("give either --seeds A..B or --root PATH")
    check_names("--tasks", args.tasks, TASKS)
    if args.other is not None and args.report is None:
        raise UserError("--compare: needs --report DIR")
    if args.no_corruptions and (args.corruptions is not None or args.no_attacks):
        other = "--no-attacks" if args.corruptions is None else "--corruptions"
        raise UserError(f"--no-corruptions: not together with {other}")
    corruptions = None if args.corruptions is None else tuple(args.corruptions)
    return PlanOptions(
        args.study_set == "full",
        () if args.no_corruptions else corruptions,
        None if args.severities is None else tuple(args.severities),
        None if args.sensors is None else tuple(args.sensors),
        not args.no_pairs,
        not args.no_attacks,
    )


def _runner_options(args: argparse.Namespace) -> RunnerOptions:
    config = PipelineConfig() if args.pipeline is None else load(PipelineConfig, args.pipeline)
    tasks = tuple(t for t in TASKS if t in args.tasks)
    if args.segmenter is not None and "segmentation" not in tasks and config.segmenter == "none":
        raise UserError("--segmenter: no task uses masks; add segmentation to --tasks")
    return RunnerOptions(config, tasks, args.detector, args.image_detector, args.segmenter)


def _sources(args: argparse.Namespace) -> list[DriveSource]:
    frames = args.frames, args.frame_interval, args.random_seed
    if args.root is not None:
        return [
            DriveSource(root, args.dataset, 0, args.rig, args.profile, *frames)
            for root in expand_inputs(args.root)
        ]
    open_rig(args.rig)
    return [
        DriveSource("", None, seed, args.rig, args.profile, *frames)
        for seed in parse_seeds(args.seeds)
    ]


def _plan(source: DriveSource, runner: RunnerOptions, options: PlanOptions) -> list[Study]:
    """The studies of a drive. Raises UserError."""
    opened = opened_drive(source, runner)
    rig = opened.drive.rig
    used = {task: opened.runner.used_sensors(task, rig) for task in opened.runner.tasks}
    return plan_studies(rig, used, options, simulated=opened.drive.render is not None)


def _run_jobs(
    args: argparse.Namespace, jobs: Sequence[RobustnessJob]
) -> list[Outcome[StudyResult]]:
    """The clean runs first, then an estimate of the time, then the studies."""
    finished = FinishedDrives(resume_folder(args, COMMAND, jobs))
    executor = executor_from(args)
    outcomes: dict[int, Outcome[StudyResult]] = {}

    def run_all(indices: Sequence[int], unit: str) -> None:
        names = [f"{jobs[i].drive.name}: {jobs[i].study.title}" for i in indices]
        done = run_drives(run_job, [jobs[i] for i in indices], names, executor, finished, unit)
        outcomes.update(zip(indices, done, strict=True))

    clean = [i for i, job in enumerate(jobs) if job.study.kind == "clean"]
    run_all(clean, "clean run")
    usable = {jobs[i].drive for i in clean if outcomes[i].result is not None}
    rest = [i for i, job in enumerate(jobs) if job.study.kind != "clean" and job.drive in usable]
    results = [r for i in clean if (r := outcomes[i].result) is not None]
    seconds = sum(r.settings[0].seconds for r in results)
    frames = sum(r.settings[0].frames for r in results)
    if rest:
        minutes = _estimate_s([jobs[i] for i in rest], seconds / max(frames, 1)) / 60.0
        minutes /= executor.processes
        text = f"{len(rest)} studies, about {minutes:.1f} minutes with {executor.processes} workers"
        print(text, file=sys.stderr)
        run_all(rest, "study")
    if not any(o.error for o in outcomes.values()):
        finished.remove()
    return [outcomes[i] for i in sorted(outcomes)]


def _estimate_s(jobs: Sequence[RobustnessJob], seconds_per_frame: float) -> float:
    """Computing time of studies from that of a clean frame; corruptions themselves take little."""
    frames = 0.0
    for job in jobs:
        settings = len(job.study.severities)
        if job.study.kind == "corruption":
            frames += settings * job.drive.frames
        elif job.study.name == "point_attack":
            frames += settings * (job.effort.queries + 1)
        else:
            frames += settings * (GRADIENT_STEP * job.effort.steps + 1)
    return frames * seconds_per_frame


def _by_drive(
    jobs: Sequence[RobustnessJob], outcomes: Sequence[Outcome[StudyResult]]
) -> dict[DriveSource, list[StudyResult]]:
    """Results of each drive that has a clean run."""
    drives: dict[DriveSource, list[StudyResult]] = {}
    names = {f"{j.drive.name}: {j.study.title}": j.drive for j in jobs}
    for outcome in outcomes:
        if outcome.result is not None:
            drives.setdefault(names[outcome.name], []).append(outcome.result)
    return {d: rs for d, rs in drives.items() if any(r.study.name == CLEAN for r in rs)}


def _digest(source: DriveSource) -> str:
    """Digest of the names, sizes and times of the files of a drive; empty for simulated drives."""
    if not source.root:
        return ""
    content = json.dumps(fingerprint(Path(source.root)))
    return hashlib.sha256(content.encode("utf-8")).hexdigest()[:16]


def _pictures(results: Sequence[StudyResult]) -> list[ReportPicture]:
    """One picture for each corruption of each modality's first sensor, and of each attack."""
    pictures, shown = [], set()
    for result in results:
        study = result.study
        key = (study.name, study.target if study.kind == "attack" else "", study.task)
        if not result.picture or key in shown:
            continue
        shown.add(key)
        unit, values = (
            ATTACKS[study.name]
            if study.kind == "attack"
            else (CORRUPTIONS[study.name].unit, CORRUPTIONS[study.name].values)
        )
        size = f"{values[study.severities[-1] - 1]:g} {unit}"
        pictures.append(ReportPicture(f"{study.title}, {size}", result.picture))
    return pictures


def _print(result: Mapping[str, Any], reference: Mapping[str, Any] | None) -> None:
    summary = summary_table(result, reference)
    table = Table(title=f"robustness, {result['frames']} frames, {result['detector']}")
    for k, name in enumerate(summary.columns):
        table.add_column(name, justify="left" if k == 0 else "right", overflow="fold")
    for row in summary.rows:
        table.add_row(*row)
    Console().print(table)
    for task, figures in result["tasks"].items():
        print(f"{task}: weakest sensor: {weakest_text(figures)}")
        if figures["reference"] != "labels":
            print(f"{task}: no labels; quality is the consistency with the clean run")
    for study, reason in result["not_applicable"].items():
        print(f"not applicable: {study}: {reason}", file=sys.stderr)
    print(f"{number(result['seconds_per_frame'])} s per clean frame")
