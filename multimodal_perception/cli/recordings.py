"""Opening of recorded or simulated data by commands, which print what was assumed about it."""

from __future__ import annotations

import sys
from argparse import ArgumentParser
from pathlib import Path

from multimodal_perception.datasets.bag import BagDataset
from multimodal_perception.datasets.dataset import Dataset
from multimodal_perception.datasets.open_dataset import (
    DATASET_NAMES,
    PATH_HELP,
    DatasetName,
    open_dataset,
)
from multimodal_perception.rig import Rig


def add_recording_arguments(parser: ArgumentParser) -> None:
    """Add PATH, --dataset and --rig, the arguments of open_recording."""
    parser.add_argument("path", help=PATH_HELP)
    parser.add_argument(
        "--dataset", choices=DATASET_NAMES, help="format of PATH (default: detected from its files)"
    )
    parser.add_argument(
        "--rig",
        help="rig of a bag or of a simulated drive (default for a bag: derived from its topics)",
    )


def open_recording(
    path: str | Path, name: DatasetName | None = None, rig: Rig | None = None
) -> Dataset:
    """Open a dataset (see open_dataset) and print its notes to stderr.

    Notes state, for example, for which sensors the topics of a bag without a rig file are taken.
    """
    dataset = open_dataset(path, name, rig)
    print_notes(dataset)
    return dataset


def print_notes(dataset: Dataset) -> None:
    """Print the notes of a bag that were not printed before; some follow from the first frames."""
    if isinstance(dataset, BagDataset):
        for note in dataset.log.notices.pop():
            print(f"note: {note}", file=sys.stderr)
