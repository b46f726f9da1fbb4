"""`evaluate rigs`: metrics of a detector on several rigs, with and without LiDAR and images."""

from __future__ import annotations

import argparse
from typing import Any

from multimodal_perception.cli import detector_report, drive_options
from multimodal_perception.configuration import UserError

# Sensors of real vehicles; training draws rigs at random and does not use these.
RIGS = ("nuscenes_like", "kitti_like", "amr_16", "solid_state_front")
IMAGES_ROW, LIDAR_ROW, ALL_ROW = "images", "LiDAR", "all sensors"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    from multimodal_perception.simulation.rigs import RIG_HELP

    drive_options.add_arguments(parser)
    parser.add_argument(
        "--rigs", nargs="+", default=RIGS, metavar="RIG", help=f"{RIG_HELP} (default: {RIGS})"
    )
    parser.add_argument(
        "--lidars",
        nargs="+",
        default=[],
        metavar="MODEL",
        help="LiDAR models: the rig of --rig is also evaluated with each of them",
    )
    parser.add_argument(
        "--detector",
        default="bev_fusion",
        help="name or folder of a model, as in `evaluate subsets` (default: bev_fusion)",
    )


def run(args: argparse.Namespace) -> int:
    from multimodal_perception.evaluation.detector_drives import DetectorSetup
    from multimodal_perception.frame import Modality

    drive_options.check_class_arguments(args)
    requests = [(name, {"rig": name, "lidar": None}) for name in args.rigs]
    requests += [(f"{args.rig}, {m}", {"rig": args.rig, "lidar": m}) for m in args.lidars]
    if len(dict(requests)) < len(requests):
        raise UserError("--rigs, --lidars: each rig and each LiDAR is allowed once")
    rigs = {
        name: drive_options.load_requested_rig(argparse.Namespace(**{**vars(args), **changes}))
        for name, changes in requests
    }
    detector = drive_options.open_low_threshold_detector(
        args.detector, not args.without_geometric_check, args.pipeline
    )
    rows: dict[str, Any] = {}
    result: dict[str, Any] = {}
    for name, rig in rigs.items():
        modalities = {m for m in Modality if rig.sensors_of(m)}
        images = modalities & {Modality.CAMERA, Modality.THERMAL}
        subsets = {ALL_ROW: modalities, LIDAR_ROW: modalities - images, IMAGES_ROW: images}
        setups = {
            f"{name}: {row}": DetectorSetup(detector, tuple(sorted(part, key=str)))
            for row, part in subsets.items()
            if part & {Modality.LIDAR, *images} and (row == ALL_ROW or part != modalities)
        }
        result = drive_options.evaluate_setups(args, rig, setups)
        rows |= result.pop("rows")
    result |= {"detector": args.detector, "rig": list(rigs), "rows": rows}
    detector_report.print_report("rigs", result, args.json)
    return 0
