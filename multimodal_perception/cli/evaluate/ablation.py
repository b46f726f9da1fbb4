"""What each part of the fusion adds: the network without it and with it, on simulated drives."""

from __future__ import annotations

import argparse

from multimodal_perception.cli import drive_options as drives
from multimodal_perception.configuration import UserError

# What each row adds to the one above, and its detector.
LIDAR_ONLY = "lidar only"
ROWS = {
    LIDAR_ONLY: "detector_lidar",
    "+ global fusion": "detector+none",
    "+ local fusion": "detector+detector_local_refinement",
    "+ feature dynamic aggregation": "detector",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    drives.add_arguments(parser)
    parser.add_argument(
        "--row",
        action="append",
        default=[],
        metavar="NAME=DETECTOR",
        help="a row instead of the four: geometric, a shipped model's name or its folder, +REFINEMENT"
        f' for another one ("none" for none); repeat. "{LIDAR_ONLY}" is given the LiDAR alone',
    )


def run(args: argparse.Namespace) -> int:
    from multimodal_perception.evaluation.detector_drives import Contestant
    from multimodal_perception.frame import Modality

    rows = dict(_row(text) for text in args.row) or ROWS
    if len(rows) < len(args.row):
        raise UserError("--row: a name is given twice")
    drives.check_class_arguments(args)
    rig = drives.rig_of(args)
    contestants = {
        name: Contestant(
            drives.opened(word), (Modality.LIDAR,) if name == LIDAR_ONLY else tuple(Modality)
        )
        for name, word in rows.items()
    }
    result = drives.compared(args, rig, contestants)
    result["detectors"] = rows
    drives.report("ablation", result, args.json)
    return 0


def _row(text: str) -> tuple[str, str]:
    name, equals, word = text.partition("=")
    if not (equals and name.strip() and word):
        raise UserError(f"--row {text!r}: expected NAME=DETECTOR")
    return name.strip(), word
