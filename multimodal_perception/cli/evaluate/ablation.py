"""`evaluate ablation`: metrics of the fusion detector with and without each of its parts."""

from __future__ import annotations

import argparse

from multimodal_perception.cli import detector_report, drive_options
from multimodal_perception.configuration import UserError

# The shipped detector without images, without its second stage, and complete.
LIDAR_ONLY = "lidar only"
ROWS = {
    LIDAR_ONLY: "bev_fusion",
    "first stage": "bev_fusion+none",
    "both stages": "bev_fusion",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    drive_options.add_arguments(parser)
    parser.add_argument(
        "--row",
        action="append",
        default=[],
        metavar="NAME=DETECTOR",
        help="row of the table, instead of the three default rows; may be repeated. DETECTOR is "
        "auto, geometric, fusion, a plug-in, or the name or folder of a model; +REFINEMENT after it "
        "selects another model of the second stage, +none no second stage. A row named "
        f'"{LIDAR_ONLY}" only receives LiDAR sweeps',
    )


def run(args: argparse.Namespace) -> int:
    from multimodal_perception.evaluation.detector_drives import DetectorSetup
    from multimodal_perception.frame import Modality

    rows = dict(_row(text) for text in args.row) or ROWS
    if len(rows) < len(args.row):
        raise UserError("--row: each NAME is allowed once; one was given twice")
    drive_options.check_class_arguments(args)
    rig = drive_options.load_requested_rig(args)
    setups = {
        name: DetectorSetup(
            drive_options.open_low_threshold_detector(
                detector, not args.without_geometric_check, args.pipeline
            ),
            (Modality.LIDAR,) if name == LIDAR_ONLY else tuple(Modality),
        )
        for name, detector in rows.items()
    }
    result = drive_options.evaluate_setups(args, rig, setups)
    result["detectors"] = rows
    detector_report.print_report("ablation", result, args.json)
    return 0


def _row(text: str) -> tuple[str, str]:
    name, equals, detector = text.partition("=")
    if not (equals and name.strip() and detector):
        raise UserError(f"--row {text!r}: expected NAME=DETECTOR")
    return name.strip(), detector
