"""`train samples`: training samples of the detector, of simulated drives or labelled recordings."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from multimodal_perception.cli.drive_options import add_profile_argument, parse_seeds
from multimodal_perception.cli.executor import (
    LOCAL,
    add_executor_arguments,
    executor_from,
    report_failures,
    resume_folder,
    run_drives,
)
from multimodal_perception.cli.finished_drives import FinishedDrives
from multimodal_perception.cli.inputs import INPUTS_HELP, drive_names, expand_inputs
from multimodal_perception.cli.train.options import add_workers_argument, check_workers
from multimodal_perception.configuration import UserError
from multimodal_perception.simulation.rigs import RANDOM, RIG_HELP, open_rig


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--out", type=Path, required=True, help="folder; existing samples are kept")
    parser.add_argument(
        "--root",
        nargs="+",
        help="labelled data (KITTI, nuScenes, PandaSet or bags) instead of simulated drives"
        + INPUTS_HELP,
    )
    parser.add_argument(
        "--labels-in-view",
        action="store_true",
        help="with --root: only objects in the field of view of a camera are labelled; other regions "
        "are excluded from the loss (always on for KITTI)",
    )
    parser.add_argument(
        "--seeds", default="0..9", metavar="A..B", help="seeds of the drives, A to B inclusive"
    )
    add_profile_argument(parser)
    parser.add_argument(
        "--rig",
        default="simulation",
        help=f"{RIG_HELP}; random: another random rig for each drive",
    )
    parser.add_argument("--frames", type=int, default=20, help="samples in each drive")
    parser.add_argument(
        "--frame-interval", type=int, default=15, help="sweeps from one sample to the next"
    )
    add_workers_argument(parser)
    add_executor_arguments(parser, workers=False)


def run(args: argparse.Namespace) -> int:
    check_workers(args)
    failed = 0
    if args.root:
        count, failed = _recorded(args)
    else:
        if executor_from(args).kind != LOCAL:
            raise UserError(
                "--executor ray: needs --root; simulated drives use --workers processes"
            )
        count = _simulated(args)
    print(f"{args.out}: {count} samples written")
    return int(failed > 0)


@dataclass(frozen=True)
class SampleJob:
    """Samples of one recorded drive. prefix: of the names of their files."""

    root: str
    out: str
    labels_in_view: bool
    prefix: str = ""


def write_samples(job: SampleJob, progress: Callable[[Any], Any] = lambda dataset: dataset) -> int:
    """Write the samples of one drive and return their number. Raises UserError."""
    from multimodal_perception.datasets.open_dataset import open_dataset
    from multimodal_perception.evaluation.recorded_drives import labels_in_view
    from multimodal_perception.training.bev_fusion.sample_files import write_sample
    from multimodal_perception.training.detector.samples import build_sample

    dataset = open_dataset(job.root)
    in_view = job.labels_in_view or labels_in_view(dataset)
    Path(job.out).mkdir(parents=True, exist_ok=True)
    count = 0
    for index, frame in enumerate(progress(dataset)):
        if frame.labels is None:
            continue
        metadata = {"dataset": dataset.name, "frame": index}
        sample = build_sample(frame, metadata, labels_in_view=in_view)
        write_sample(Path(job.out) / f"{job.prefix}{index:06d}.npz", sample)
        count += 1
    if not count:
        raise UserError(f"{job.root}: no frame has labels")
    return count


def _recorded(args: argparse.Namespace) -> tuple[int, int]:
    """Number of samples, and of drives that failed."""
    from tqdm import tqdm

    roots = expand_inputs(args.root)
    if len(roots) == 1:
        job = SampleJob(roots[0], str(args.out), args.labels_in_view)
        return write_samples(job, lambda dataset: tqdm(dataset, unit="frame")), 0
    jobs = [
        SampleJob(root, str(args.out), args.labels_in_view, f"{name}-")
        for root, name in zip(roots, drive_names(roots), strict=True)
    ]
    finished = FinishedDrives(resume_folder(args, "train-samples", jobs))
    outcomes = run_drives(write_samples, jobs, roots, executor_from(args), finished)
    failed = report_failures(outcomes)
    if not failed:
        finished.remove()
    return sum(o.result for o in outcomes if o.result is not None), failed


def _simulated(args: argparse.Namespace) -> int:
    from multimodal_perception.training.detector.drives import render_samples

    seeds = parse_seeds(args.seeds)
    rig = None if args.rig == RANDOM else open_rig(args.rig)
    return render_samples(
        seeds, rig, args.frames, args.frame_interval, args.out, args.workers, args.profile
    )
