"""`evaluate cameras`: metrics of a detector with some cameras turned off, by viewing sector."""

from __future__ import annotations

import argparse

from multimodal_perception.cli import detector_report, drive_options
from multimodal_perception.configuration import UserError

SECTORS = ("on", "off")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    drive_options.add_arguments(parser)
    parser.set_defaults(rig="nuscenes_like")
    parser.add_argument(
        "--detector",
        default="bev_fusion",
        help="name or folder of a model, as in `evaluate subsets` (default: bev_fusion)",
    )
    parser.add_argument(
        "--off",
        nargs="+",
        metavar="CAMERA",
        help="cameras and thermal cameras that are turned off (default: all cameras of the rig but the "
        "first two)",
    )


def run(args: argparse.Namespace) -> int:
    from multimodal_perception.evaluation.detector_drives import DetectorSetup
    from multimodal_perception.frame import Modality

    drive_options.check_class_arguments(args)
    rig = drive_options.load_requested_rig(args)
    cameras = list(rig.sensors_of(Modality.CAMERA))
    images = [*cameras, *rig.sensors_of(Modality.THERMAL)]
    off = cameras[2:] if args.off is None else args.off
    for name in off:
        if name not in images:
            raise UserError(f"--off: allowed: {', '.join(images) or 'nothing'}; got {name!r}")
    if not off or len(off) == len(images):
        raise UserError(f"rig {rig.name}: --off must leave a camera on and turn one off")
    detector = drive_options.open_low_threshold_detector(
        args.detector, not args.without_geometric_check, args.pipeline
    )
    lidar = {"": tuple(Modality)} if rig.sensors_of(Modality.LIDAR) else {}
    without = {", without LiDAR": tuple(m for m in Modality if m is not Modality.LIDAR)}
    setups = {
        f"{name}{suffix}": DetectorSetup(detector, modalities, sensors_off=frozenset(names))
        for suffix, modalities in (lidar | without).items()
        for name, names in (("all cameras", ()), (f"{len(off)} off", off))
    }
    # An object that a camera that stays on shows as well belongs to the sector "on".
    sectors = dict(zip(SECTORS, ([n for n in images if n not in off], off), strict=True))
    result = drive_options.evaluate_setups(args, rig, setups, sectors)
    result |= {"detector": args.detector, "cameras_off": list(off)}
    detector_report.print_report(f"cameras of {rig.name}", result, args.json)
    return 0
