"""Options and tables of the commands that evaluate detectors on simulated drives."""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table
from tqdm import tqdm

from multimodal_perception.configuration import UserError
from multimodal_perception.evaluation.nuscenes_metrics import CLASS_RANGES, MOVING_CLASSES
from multimodal_perception.evaluation.report import write_json
from multimodal_perception.frame import Modality
from multimodal_perception.rig import Rig, load_rig, resolve_rig_path

if TYPE_CHECKING:
    from multimodal_perception.evaluation.detector_drives import DetectorSetup
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


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of the commands that evaluate detectors."""
    add_drive_arguments(parser, "10000..10007")
    add_class_arguments(parser)
    parser.add_argument(
        "--without-geometric-check",
        action="store_true",
        help="run the fusion detector without its geometric check (parameter "
        "pipeline.fusion.geometric_check: false), to measure only the networks",
    )


def add_drive_arguments(parser: argparse.ArgumentParser, seeds: str) -> None:
    """Add the options of the simulated drives and of the result. seeds: the default of --seeds."""
    parser.add_argument(
        "--seeds",
        default=seeds,
        metavar="A..B",
        help="random seeds of the simulated drives, both ends included",
    )
    parser.add_argument(
        "--frames-per-seed",
        type=int,
        default=4,
        help="frames of each drive; each seed is simulated by day and by night",
    )
    parser.add_argument(
        "--frame-interval", type=int, default=15, help="sweeps between two evaluated frames"
    )
    parser.add_argument("--rig", default="simulation", help="rig file, or name of a shipped rig")
    parser.add_argument(
        "--lidar", metavar="MODEL", help="LiDAR model instead of the rig's: hdl64, hdl32 or vlp16"
    )
    parser.add_argument("--json", type=Path, help="write the result to this JSON file")


def add_class_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options that select the evaluated labels."""
    parser.add_argument(
        "--classes",
        nargs="+",
        default=MOVING_CLASSES,
        choices=tuple(CLASS_RANGES),
        help="evaluated classes",
    )
    parser.add_argument(
        "--max-range", type=float, help="maximum distance of labels and boxes, metres"
    )


def check_class_arguments(args: argparse.Namespace) -> None:
    """Check the options of add_class_arguments. Raises UserError."""
    if args.max_range is not None and not 1.0 <= args.max_range <= 100.0:
        raise UserError(f"--max-range: allowed: 1 to 100 m; got {args.max_range:g}")


def load_requested_rig(args: argparse.Namespace) -> Rig:
    """Check the options of add_drive_arguments and load the rig. Raises UserError."""
    for name, low, high in (("frames_per_seed", 1, 1000), ("frame_interval", 1, 1000)):
        value = getattr(args, name)
        if not low <= value <= high:
            option = name.replace("_", "-")
            raise UserError(f"--{option}: allowed: {low} to {high}; got {value}")
    parse_seeds(args.seeds)
    rig = load_rig(resolve_rig_path(args.rig))
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


def open_low_threshold_detector(name: str, geometric_check: bool = True) -> Detector:
    """Open a detector with a low score threshold, because AP is computed over all scores.

    geometric_check: see FusionConfig.
    """
    from multimodal_perception.pipeline_builder import PipelineConfig, open_detector

    config = PipelineConfig()
    fusion = dataclasses.replace(
        config.fusion, min_score=MIN_SCORE, geometric_check=geometric_check
    )
    geometric = dataclasses.replace(config.geometric, min_score=MIN_SCORE)
    return open_detector(name, dataclasses.replace(config, fusion=fusion, geometric=geometric))


def evaluate_setups(
    args: argparse.Namespace, rig: Rig, setups: Mapping[str, DetectorSetup]
) -> dict[str, Any]:
    """Evaluate detector setups on the requested drives. The result contains the options used."""
    from multimodal_perception.evaluation.breakdown import MIN_POINTS, MIN_VISIBILITY
    from multimodal_perception.evaluation.detector_drives import (
        compare_detectors,
        plan_drives,
        simulate_frames,
    )
    from multimodal_perception.evaluation.nuscenes_metrics import NuScenesProtocol

    protocol = NuScenesProtocol.for_classes(args.classes, args.max_range)
    drives = plan_drives(parse_seeds(args.seeds), args.frames_per_seed, args.frame_interval)
    total = len(drives) * args.frames_per_seed

    def frames() -> Iterator[Any]:
        with tqdm(total=total, unit="frame") as bar:
            for drive, frame in simulate_frames(drives, rig):
                yield drive, frame
                bar.update()

    rows = compare_detectors(frames(), setups, protocol)
    return {
        "seeds": args.seeds,
        "rig": rig.name,
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


def _by_view(rows: Mapping[str, Any]) -> Table:
    """mAP of the rows by the image modalities that show the box centre."""
    first = next(iter(rows.values()))["by_view"]
    views = [view for view, part in first.items() if part["labels"]]
    table = Table("", *views, title="mAP by the images that show the box centre")
    for name, metrics in rows.items():
        table.add_row(name, *(f"{100 * metrics['by_view'][v]['map']:.1f}" for v in views))
    return table


def print_report(title: str, result: Mapping[str, Any], path: Path | None) -> None:
    """Print tables of mAP and AP in percent, and write the result to `path` if that is not None."""
    rows = result["rows"]
    first = next(iter(rows.values()))
    conditions, bands = list(first["by_condition"]), list(first["by_distance"])
    classes = [c for c, values in first["by_class"].items() if values["labels"]]
    overview = Table(title=f"{title}: {result['frames']} frames, seeds {result['seeds']}")
    by_class = Table(title="AP by class")
    for table, names in (
        (overview, ("mAP", *conditions, *(f"{band} m" for band in bands), "p50 ms")),
        (by_class, classes),
    ):
        table.add_column("", overflow="fold")
        for name in names:
            table.add_column(name, justify="right")
    for name, metrics in rows.items():
        maps = [metrics["map"], *(metrics["by_condition"][c]["map"] for c in conditions)]
        maps += [metrics["by_distance"][band]["map"] for band in bands]
        cells = [f"{100 * value:.1f}" for value in maps]
        overview.add_row(name, *cells, f"{metrics['latency_ms']['p50']:.1f}")
        by_class.add_row(name, *(f"{100 * metrics['by_class'][c]['ap']:.1f}" for c in classes))
    console = Console()
    console.print(overview)
    console.print(by_class)
    console.print(_by_view(rows))
    if path is not None:
        write_json(path, dict(result))
