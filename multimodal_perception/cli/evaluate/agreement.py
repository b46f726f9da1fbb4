"""ONNX Runtime and torch on the same frames: do they say the same of a fusion detector?"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

from multimodal_perception.cli import drive_options as drives


def add_arguments(parser: argparse.ArgumentParser) -> None:
    drives.add_drive_arguments(parser, "10000..10006")
    parser.add_argument(
        "--detector", default="detector", help="a shipped model's name, or its folder"
    )
    parser.add_argument(
        "--golden",
        type=Path,
        metavar="F",
        help="instead, write the outputs that the tests compare with (test/evaluation/golden.npz)",
    )


def run(args: argparse.Namespace) -> int:
    from tqdm import tqdm

    from multimodal_perception.evaluation import agreement
    from multimodal_perception.evaluation.detector_drives import driven
    from multimodal_perception.evaluation.detector_drives import drives as drives_of
    from multimodal_perception.evaluation.report import write_json
    from multimodal_perception.frame import SensorFrame

    rig = drives.rig_of(args)
    if args.golden is not None:
        print(f"{args.golden}: {agreement.write_golden(args.detector, args.golden)} boxes written")
        return 0
    chosen = drives_of(drives.parse_seeds(args.seeds), args.frames_per_seed, args.every)
    total = len(chosen) * args.frames_per_seed

    def frames() -> Iterator[SensorFrame]:
        yield from (frame for _, frame in tqdm(driven(chosen, rig), total=total, unit="frame"))

    found = agreement.compare_engines(args.detector, ("onnxruntime", "torch"), frames())
    for name, value in found.apart.items():
        print(f"{name}: {value:.1e} apart at most, relative")
    print(f"{found.compared} compared in {total} frames, {found.alone} on one side alone")
    print(f"within {agreement.TOLERANCE:g}: {'yes' if found.holds else 'no'}")
    if args.json is not None:
        write_json(
            args.json,
            {
                "detector": args.detector,
                "seeds": args.seeds,
                "frames": total,
                "compared": found.compared,
                "alone": found.alone,
                "relative": found.apart,
                "tolerance": agreement.TOLERANCE,
                "met": found.holds,
            },
        )
    return 0 if found.holds else 1
