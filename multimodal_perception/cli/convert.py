"""Writes datasets as rosbag2 bags."""

from __future__ import annotations

import argparse
import shutil
from dataclasses import dataclass
from pathlib import Path

from multimodal_perception.cli.executor import (
    add_executor_arguments,
    executor_from,
    report_failures,
    resume_folder,
    run_drives,
)
from multimodal_perception.cli.finished_drives import FinishedDrives
from multimodal_perception.cli.inputs import INPUTS_HELP, drive_names, expand_inputs
from multimodal_perception.cli.recordings import open_recording, print_notes
from multimodal_perception.datasets.bag_writer import Storage, write_bag
from multimodal_perception.datasets.dataset import DatasetError
from multimodal_perception.datasets.open_dataset import (
    DATASET_NAMES,
    PATH_HELP,
    DatasetName,
    open_dataset,
)

# Suffix of a bag that is being written; it is renamed when it is complete.
PARTIAL = ".partial"


@dataclass(frozen=True)
class ConversionJob:
    """One drive to convert: its data, as for open_dataset, and the bag folder to create."""

    root: str
    dataset: DatasetName | None
    out: str
    storage: Storage


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--dataset",
        choices=DATASET_NAMES,
        help="format of --root (default: detected from its files)",
    )
    parser.add_argument(
        "--root", nargs="+", default=["synthetic"], help=f"{PATH_HELP}{INPUTS_HELP}"
    )
    parser.add_argument(
        "--out",
        required=True,
        help="bag folder to create; of several drives, the folder for their bags",
    )
    parser.add_argument(
        "--storage",
        choices=("sqlite3", "mcap"),
        default="sqlite3",
        help="storage format of the bag",
    )
    add_executor_arguments(parser)


def run(args: argparse.Namespace) -> int:
    roots = expand_inputs(args.root)
    if len(roots) > 1:
        return _convert_all(args, roots)
    dataset = open_recording(roots[0], args.dataset)
    counts = write_bag(dataset, dataset.rig, args.out, args.storage)
    print_notes(dataset)
    for topic, count in sorted(counts.items()):
        print(f"{count:6d}  {topic}")
    return 0


def convert_drive(job: ConversionJob) -> dict[str, int]:
    """Write one bag and return its number of messages by topic.

    An unfinished bag of an interrupted run is written again, and one that was just finished is kept.
    Raises DatasetError if the bag exists.
    """
    out = Path(job.out)
    marker = conversion_marker(out)
    if out.exists():
        if marker.exists():
            return _count_messages(out)
        raise DatasetError(f"{out}: already exists; give a new folder")
    dataset = open_dataset(job.root, job.dataset)
    out.parent.mkdir(parents=True, exist_ok=True)
    marker.touch()
    partial = out.with_name(out.name + PARTIAL)
    shutil.rmtree(partial, ignore_errors=True)
    counts = write_bag(dataset, dataset.rig, partial, job.storage)
    partial.rename(out)
    return counts


def conversion_marker(out: Path) -> Path:
    """File beside a bag that exists from the start of its conversion until its result is stored.

    A bag is renamed before its result is stored. If the run is killed between both, the next run
    recognises the complete bag by this file.
    """
    return out.with_name(f".{out.name}.converting")


def _count_messages(bag: Path) -> dict[str, int]:
    """Number of messages by topic of a complete bag."""
    from rosbags.highlevel import AnyReader

    from multimodal_perception.datasets.bag_writer import typestore

    with AnyReader([bag], default_typestore=typestore()) as reader:
        return {name: topic.msgcount for name, topic in reader.topics.items()}


def _convert_all(args: argparse.Namespace, roots: list[str]) -> int:
    names = drive_names(roots)
    jobs = [
        ConversionJob(root, args.dataset, str(Path(args.out) / name), args.storage)
        for root, name in zip(roots, names, strict=True)
    ]
    finished = FinishedDrives(resume_folder(args, "convert", jobs))
    outcomes = run_drives(convert_drive, jobs, roots, executor_from(args), finished)
    for job, outcome in zip(jobs, outcomes, strict=True):
        conversion_marker(Path(job.out)).unlink(missing_ok=True)
        if outcome.result is not None:
            print(f"{sum(outcome.result.values()):8d} messages  {job.out}")
    failed = report_failures(outcomes)
    if not failed:
        finished.remove()
    return int(failed > 0)
