"""Options of the commands that evaluate detectors on simulated drives."""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from tqdm import tqdm

from multimodal_perception.configuration import UserError, load
from multimodal_perception.evaluation.class_sets import CLASS_SETS
from multimodal_perception.frame import Modality
from multimodal_perception.rig import Rig
from multimodal_perception.simulation.profile import PROFILE_HELP, PROFILES
from multimodal_perception.simulation.rigs import RIG_HELP, open_rig

if TYPE_CHECKING:
    from multimodal_perception.evaluation.detector_drives import DetectorSetup
    from multimodal_perception.evaluation.nuscenes_metrics import NuScenesProtocol
    from multimodal_perception.stages import Detector

MIN_SCORE = 0.05


def parse_seeds(text: str) -> range:
    """The random seeds of the range A..B, both ends included. Raises UserError."""
    first, dots, last = text.partition("..")
    try:
        seeds = range(int(first), int(last if dots else first) + 1)
    except ValueError:
        raise UserError(f"--seeds {text!r}: expected A..B with integers A and B") from None
    if not 0 < len(seeds) <= 100_000 or seeds[0] < 0:
        raise UserError(f"--seeds {text!r}: allowed: A..B with 0 <= A <= B, at most 100000 seeds")
    return seeds


def parse_seed_sets(texts: Sequence[str]) -> dict[str, range]:
    """The random seeds of each range. Raises UserError, also for ranges that overlap."""
    sets = {text: parse_seeds(text) for text in texts}
    if len(set().union(*sets.values())) < sum(map(len, sets.values())) or len(sets) < len(texts):
        raise UserError(f"--seeds {' '.join(texts)}: the ranges overlap")
    return sets


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of the commands that evaluate detectors."""
    add_drive_arguments(parser, "10000..10007", several=True)
    add_class_arguments(parser)
    parser.add_argument(
        "--recall-min-score",
        type=float,
        metavar="SCORE",
        help="score from which boxes count in the recall of objects in images (default: the score from "
        "which the fusion detector reports boxes)",
    )
    parser.add_argument(
        "--pipeline",
        type=Path,
        metavar="FILE",
        help="YAML file with the keys below `pipeline:` of config/perception.yaml, for example with a "
        "segmenter that paints points; tracking and occupancy are off",
    )
    parser.add_argument(
        "--without-geometric-check",
        action="store_true",
        help="run the fusion detector without its geometric check (parameter "
        "pipeline.fusion.geometric_check: false), to measure only the networks",
    )


def add_drive_arguments(parser: argparse.ArgumentParser, seeds: str, several: bool = False) -> None:
    """Add the options of the simulated drives and of the result.

    seeds: the default of --seeds. several: whether --seeds takes several ranges, see parse_seed_sets.
    """
    text = "random seeds of the simulated drives, both ends included"
    if several:
        text += "; with several ranges the mean and the spread of the mAP over them are printed too"
        parser.add_argument("--seeds", nargs="+", default=[seeds], metavar="A..B", help=text)
    else:
        parser.add_argument("--seeds", default=seeds, metavar="A..B", help=text)
    parser.add_argument(
        "--frames-per-seed",
        type=int,
        default=4,
        help="frames of each drive; each seed is simulated by day and by night",
    )
    parser.add_argument(
        "--frame-interval", type=int, default=15, help="sweeps between two evaluated frames"
    )
    add_profile_argument(parser)
    parser.add_argument("--rig", default="simulation", help=RIG_HELP)
    parser.add_argument(
        "--lidar", metavar="MODEL", help="LiDAR model instead of the rig's: hdl64, hdl32 or vlp16"
    )
    parser.add_argument("--json", type=Path, help="write the result to this JSON file")


def add_profile_argument(parser: argparse.ArgumentParser) -> None:
    """Add --profile, the profile of the simulated drives."""
    parser.add_argument(
        "--profile",
        choices=PROFILES,
        default="basic",
        help=f"profile of the simulated drives (default: basic). {PROFILE_HELP}",
    )


def add_class_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options that select the evaluated labels."""
    parser.add_argument(
        "--class-set",
        nargs="+",
        default=["six"],
        choices=tuple(CLASS_SETS),
        help="classes in which labels and boxes are compared: six of the detector of version 0.2 with "
        "vans as cars, all ten, or those of a benchmark; the tables of further sets are printed below "
        "those of the first one (default: six)",
    )
    parser.add_argument(
        "--classes",
        nargs="+",
        metavar="CLASS",
        help="evaluated classes of the first class set (default: all; of six without cone and barrier)",
    )
    parser.add_argument(
        "--max-range", type=float, help="maximum distance of labels and boxes, metres"
    )


def check_class_arguments(args: argparse.Namespace) -> None:
    """Check the options of add_class_arguments. Raises UserError."""
    if args.max_range is not None and not 1.0 <= args.max_range <= 100.0:
        raise UserError(f"--max-range: allowed: 1 to 100 m; got {args.max_range:g}")
    requested_protocol(args)


def requested_protocol(args: argparse.Namespace) -> NuScenesProtocol:
    """The metrics of the first class set, with the requested classes and range. Raises UserError."""
    try:
        return CLASS_SETS[args.class_set[0]].protocol(args.classes, args.max_range)
    except UserError as error:
        raise UserError(f"--{error}") from error


def load_requested_rig(args: argparse.Namespace) -> Rig:
    """Check the options of add_drive_arguments and load the rig. Raises UserError."""
    for name, low, high in (("frames_per_seed", 1, 1000), ("frame_interval", 1, 1000)):
        value = getattr(args, name)
        if not low <= value <= high:
            option = name.replace("_", "-")
            raise UserError(f"--{option}: allowed: {low} to {high}; got {value}")
    if isinstance(args.seeds, str):
        parse_seeds(args.seeds)
    else:
        parse_seed_sets(args.seeds)
    rig = open_rig(args.rig)
    return rig if args.lidar is None else with_lidar_model(rig, args.lidar)


def with_lidar_model(rig: Rig, model: str) -> Rig:
    """The rig with another model for all simulated LiDARs."""
    sensors = {
        name: dataclasses.replace(sensor, simulation={**sensor.simulation, "model": model})
        if sensor.modality is Modality.LIDAR
        else sensor
        for name, sensor in rig.sensors.items()
    }
    return dataclasses.replace(rig, sensors=sensors)


def open_low_threshold_detector(
    name: str, geometric_check: bool = True, pipeline: Path | None = None
) -> Detector:
    """Open a detector with a low score threshold, because AP is computed over all scores.

    geometric_check: see FusionConfig. pipeline: file of --pipeline. Raises UserError.
    """
    from multimodal_perception.pipeline_builder import PipelineConfig, open_detector

    config = PipelineConfig() if pipeline is None else load(PipelineConfig, pipeline)
    fusion = dataclasses.replace(
        config.fusion, min_score=MIN_SCORE, geometric_check=geometric_check
    )
    geometric = dataclasses.replace(config.geometric, min_score=MIN_SCORE)
    return open_detector(name, dataclasses.replace(config, fusion=fusion, geometric=geometric))


def evaluate_setups(
    args: argparse.Namespace,
    rig: Rig,
    setups: Mapping[str, DetectorSetup],
    sectors: Mapping[str, Sequence[str]] | None = None,
) -> dict[str, Any]:
    """Evaluate detector setups on the requested drives. The result contains the options used.

    sectors: see compare_detectors. With several ranges of seeds each row has `map_over_sets`: the mAP of
    each range (maps), their mean and standard deviation.
    """
    from multimodal_perception.evaluation.breakdown import MIN_POINTS, MIN_VISIBILITY
    from multimodal_perception.evaluation.detector_drives import (
        PastSweeps,
        compare_detectors,
        plan_drives,
        simulate_frames,
    )
    from multimodal_perception.pipeline_builder import PipelineConfig

    protocol = requested_protocol(args)
    sets = parse_seed_sets(args.seeds)
    drives = [
        dataclasses.replace(drive, seed_set=name if len(sets) > 1 else "")
        for name, seeds in sets.items()
        for drive in plan_drives(
            seeds, args.frames_per_seed, args.frame_interval, profile=args.profile
        )
    ]
    total = len(drives) * args.frames_per_seed

    def frames() -> Iterator[Any]:
        with tqdm(total=total, unit="frame") as bar:
            for drive, frame in simulate_frames(drives, rig):
                yield drive, frame
                bar.update()

    rows = compare_detectors(
        frames(),
        setups,
        protocol,
        past_sweeps=PastSweeps(rig),
        class_sets={
            name: CLASS_SETS[name].protocol(None, args.max_range) for name in args.class_set[1:]
        },
        sectors=sectors,
        recall_min_score=args.recall_min_score,
        pipeline=None if args.pipeline is None else load(PipelineConfig, args.pipeline),
    )
    if len(sets) > 1:
        for metrics in rows.values():
            maps = {name: metrics["by_seeds"][name]["map"] for name in sets}
            values = np.array(list(maps.values()))
            metrics["map_over_sets"] = {
                "maps": maps,
                "mean": float(values.mean()),
                "deviation": float(values.std(ddof=1)),
            }
    return {
        "seeds": " ".join(args.seeds),
        "rig": rig.name,
        "profile": args.profile,
        "class_set": args.class_set[0],
        "lidar": args.lidar,
        "frames": total,
        "scenarios": sorted({d.scenario for d in drives}),
        "evaluated_labels": {
            "max_range_m": dict(protocol.ranges),
            "min_points": MIN_POINTS,
            "or_min_visibility": MIN_VISIBILITY,
        },
        "min_score": MIN_SCORE,
        "geometric_check": not args.without_geometric_check,
        "rows": rows,
    }
