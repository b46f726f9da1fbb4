"""`evaluate subsets`: metrics of a detector for every subset of the sensor modalities."""

from __future__ import annotations

import argparse

from multimodal_perception.cli import detector_report, drive_options
from multimodal_perception.configuration import UserError

LIDAR_ONLY_ROW = "lidar-only detector"
PROJECTED_ROW = "{}, projected image boxes"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    drive_options.add_arguments(parser)
    parser.add_argument(
        "--detector",
        default="bev_fusion",
        help="auto, geometric, fusion, a plug-in, or the name or folder of a model; +REFINEMENT after "
        "it selects another model of the second stage, +none no second stage (default: bev_fusion)",
    )
    parser.add_argument(
        "--lidar-only-detector",
        metavar="DETECTOR",
        help="another detector for comparison, which only receives LiDAR sweeps",
    )
    parser.add_argument(
        "--image-detector",
        default="image_detector",
        metavar="MODEL",
        help="model for additional rows without LiDAR and ultrasonic sensors, in which its 2D boxes are "
        "projected onto the ground; none: no such rows",
    )


def run(args: argparse.Namespace) -> int:
    from multimodal_perception.detection.images.config import ImageDetectorConfig
    from multimodal_perception.detection.images.rgb_thermal import RgbThermalDetector
    from multimodal_perception.evaluation.detector_drives import DetectorSetup, modality_subsets
    from multimodal_perception.frame import Modality

    drive_options.check_class_arguments(args)
    rig = drive_options.load_requested_rig(args)
    subsets = modality_subsets(rig)
    if not subsets:
        raise UserError(f"rig {rig.name}: needs a LiDAR, a camera or a thermal camera")
    geometric_check = not args.without_geometric_check
    detector = drive_options.open_low_threshold_detector(
        args.detector, geometric_check, args.pipeline
    )
    setups = {name: DetectorSetup(detector, subset) for name, subset in subsets.items()}
    if args.image_detector != "none":
        image_detector = RgbThermalDetector(
            ImageDetectorConfig(model=args.image_detector, min_score=drive_options.MIN_SCORE)
        )
        setups |= {
            PROJECTED_ROW.format(name): DetectorSetup(detector, subset, image_detector)
            for name, subset in subsets.items()
            if not {Modality.LIDAR, Modality.ULTRASONIC} & set(subset)
        }
    if args.lidar_only_detector is not None:
        lidar_only = drive_options.open_low_threshold_detector(
            args.lidar_only_detector, geometric_check, args.pipeline
        )
        setups[LIDAR_ONLY_ROW] = DetectorSetup(lidar_only, (Modality.LIDAR,))
    result = drive_options.evaluate_setups(args, rig, setups)
    result["detector"] = args.detector
    detector_report.print_report(f"subsets of {args.detector}", result, args.json)
    return 0
