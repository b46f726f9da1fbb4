"""What the detector finds when sensors are gone: every set of kinds that can still see."""

from __future__ import annotations

import argparse

from multimodal_perception.cli import drive_options as drives
from multimodal_perception.configuration import UserError

BESIDE = "beside: lidar only"
PLACED = "{}, boxes in images placed"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    drives.add_arguments(parser)
    parser.add_argument(
        "--detector", default="detector", help="geometric, a shipped model's name or its folder"
    )
    parser.add_argument(
        "--beside",
        metavar="DETECTOR",
        help="one that is given the LiDAR alone, as a row to compare",
    )
    parser.add_argument(
        "--image-detector",
        default="image_detector",
        metavar="MODEL",
        help="whose boxes are placed on the ground in further rows without LiDAR; none for no such rows",
    )


def run(args: argparse.Namespace) -> int:
    from multimodal_perception.detection.images.rgb_thermal import RgbirConfig, RgbirDetector
    from multimodal_perception.evaluation.detector_drives import Contestant, seeing_subsets
    from multimodal_perception.frame import Modality

    drives.check_class_arguments(args)
    rig = drives.rig_of(args)
    subsets = seeing_subsets(rig)
    if not subsets:
        raise UserError(f"rig {rig.name}: none of its sensors can see")
    detector = drives.opened(args.detector)
    contestants = {name: Contestant(detector, kinds) for name, kinds in subsets.items()}
    if args.image_detector != "none":
        image_detector = RgbirDetector(
            RgbirConfig(model=args.image_detector, min_score=drives.LEAST_SCORE)
        )
        contestants |= {
            PLACED.format(name): Contestant(detector, kinds, image_detector)
            for name, kinds in subsets.items()
            if not {Modality.LIDAR, Modality.ULTRASONIC} & set(kinds)
        }
    if args.beside is not None:
        contestants[BESIDE] = Contestant(drives.opened(args.beside), (Modality.LIDAR,))
    result = drives.compared(args, rig, contestants)
    result["detector"] = args.detector
    drives.report(f"subsets of {args.detector}", result, args.json)
    return 0
