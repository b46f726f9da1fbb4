"""Writes a dataset as a rosbag2 bag."""

from __future__ import annotations

import argparse

from multimodal_perception.cli.recordings import open_recording, print_notes
from multimodal_perception.datasets.bag_writer import write_bag
from multimodal_perception.datasets.open_dataset import DATASET_NAMES, PATH_HELP


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--dataset",
        choices=DATASET_NAMES,
        help="format of --root (default: detected from its files)",
    )
    parser.add_argument("--root", default="synthetic", help=PATH_HELP)
    parser.add_argument("--out", required=True, help="bag folder to create")
    parser.add_argument(
        "--storage",
        choices=("sqlite3", "mcap"),
        default="sqlite3",
        help="storage format of the bag",
    )


def run(args: argparse.Namespace) -> int:
    dataset = open_recording(args.root, args.dataset)
    counts = write_bag(dataset, dataset.rig, args.out, args.storage)
    print_notes(dataset)
    for topic, count in sorted(counts.items()):
        print(f"{count:6d}  {topic}")
    return 0
