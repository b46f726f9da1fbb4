"""`evaluate agreement`: compares the fusion detector's outputs on ONNX Runtime and torch."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

from multimodal_perception.cli import drive_options


def add_arguments(parser: argparse.ArgumentParser) -> None:
    drive_options.add_drive_arguments(parser, "10000..10006")
    parser.add_argument(
        "--detector", default="bev_fusion", help="name of a shipped model, or its folder"
    )
    parser.add_argument(
        "--golden",
        type=Path,
        metavar="F",
        help="only write the reference outputs of the tests to this file (test/evaluation/golden.npz)",
    )


def run(args: argparse.Namespace) -> int:
    from tqdm import tqdm

    from multimodal_perception.evaluation import agreement
    from multimodal_perception.evaluation.detector_drives import plan_drives, simulate_frames
    from multimodal_perception.evaluation.report import write_json
    from multimodal_perception.frame import SensorFrame

    rig = drive_options.load_requested_rig(args)
    if args.golden is not None:
        print(f"{args.golden}: {agreement.write_golden(args.detector, args.golden)} boxes written")
        return 0
    seeds = drive_options.parse_seeds(args.seeds)
    drives = plan_drives(seeds, args.frames_per_seed, args.frame_interval, profile=args.profile)
    total = len(drives) * args.frames_per_seed

    def frames() -> Iterator[SensorFrame]:
        yield from (
            frame for _, frame in tqdm(simulate_frames(drives, rig), total=total, unit="frame")
        )

    result = agreement.compare_engines(args.detector, ("onnxruntime", "torch"), frames())
    for name, value in result.max_differences.items():
        print(f"{name}: maximum relative difference {value:.1e}")
    print(f"{result.compared} boxes compared in {total} frames, {result.unmatched} without a match")
    verdict = "yes" if result.within_tolerance else "no"
    print(f"within the tolerance of {agreement.TOLERANCE:g}: {verdict}")
    if args.json is not None:
        write_json(
            args.json,
            {
                "detector": args.detector,
                "seeds": args.seeds,
                "frames": total,
                "compared": result.compared,
                "unmatched": result.unmatched,
                "max_relative_difference": result.max_differences,
                "tolerance": agreement.TOLERANCE,
                "within_tolerance": result.within_tolerance,
            },
        )
    return 0 if result.within_tolerance else 1
