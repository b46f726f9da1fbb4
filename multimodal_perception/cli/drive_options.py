"""Options and tables of the tasks that compare detectors on simulated drives."""

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
from multimodal_perception.evaluation.nuscenes_metrics import MOVING, RANGES
from multimodal_perception.evaluation.report import write_json
from multimodal_perception.frame import Modality
from multimodal_perception.rig import Rig, load_rig, rig_path

if TYPE_CHECKING:
    from multimodal_perception.evaluation.detector_drives import Contestant
    from multimodal_perception.pipeline import Detector

LEAST_SCORE = 0.05


def parse_seeds(text: str) -> range:
    """The seeds that A..B means, both included. Raises UserError."""
    first, dots, last = text.partition("..")
    try:
        seeds = range(int(first), int(last if dots else first) + 1)
    except ValueError:
        raise UserError(f"--seeds {text!r}: expected A..B, whole numbers") from None
    if not 0 < len(seeds) <= 100_000 or seeds[0] < 0:
        raise UserError(f"--seeds {text!r}: A..B needs 0 <= A <= B and at most 100000 of them")
    return seeds


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What the tasks that score detectors ask for."""
    add_drive_arguments(parser, "10000..10007")
    add_class_arguments(parser)


def add_drive_arguments(parser: argparse.ArgumentParser, seeds: str) -> None:
    """Which drives are simulated, these by default, and where the result goes."""
    parser.add_argument("--seeds", default=seeds, metavar="A..B", help="drives, both ends included")
    parser.add_argument(
        "--frames-per-seed", type=int, default=4, help="of each drive, by day and again by night"
    )
    parser.add_argument("--every", type=int, default=15, help="sweeps from one frame to the next")
    parser.add_argument("--rig", default="simulation", help="rig file, or a shipped rig's name")
    parser.add_argument(
        "--lidar", metavar="MODEL", help="hdl64, hdl32 or vlp16 in place of the rig's own LiDARs"
    )
    parser.add_argument("--json", type=Path, help="file for the result")


def add_class_arguments(parser: argparse.ArgumentParser) -> None:
    """Which labels count."""
    parser.add_argument(
        "--classes", nargs="+", default=MOVING, choices=tuple(RANGES), help="that are scored"
    )
    parser.add_argument("--max-range", type=float, help="metres up to which they count at most")


def check_class_arguments(args: argparse.Namespace) -> None:
    """Raise UserError for a range that is not allowed."""
    if args.max_range is not None and not 1.0 <= args.max_range <= 100.0:
        raise UserError(f"--max-range: allowed: 1 to 100 m; got {args.max_range:g}")


def rig_of(args: argparse.Namespace) -> Rig:
    """The rig that is asked for. Raises UserError, also for other drives than are allowed."""
    for name, low, high in (("frames_per_seed", 1, 1000), ("every", 1, 1000)):
        value = getattr(args, name)
        if not low <= value <= high:
            option = name.replace("_", "-")
            raise UserError(f"--{option}: allowed: {low} to {high}; got {value}")
    parse_seeds(args.seeds)
    rig = load_rig(rig_path(args.rig))
    return rig if args.lidar is None else with_beams(rig, args.lidar)


def with_beams(rig: Rig, model: str) -> Rig:
    """A rig whose simulated LiDARs have the rings of another unit."""
    sensors = {
        name: dataclasses.replace(sensor, simulation={**sensor.simulation, "model": model})
        if sensor.modality is Modality.LIDAR
        else sensor
        for name, sensor in rig.sensors.items()
    }
    return dataclasses.replace(rig, sensors=sensors)


def opened(word: str) -> Detector:
    """The detector of a name, its unlikely boxes too: average precision weighs all by their scores."""
    from multimodal_perception.detection.open_detector import open_detector
    from multimodal_perception.pipeline import PipelineConfig

    config = PipelineConfig()
    fusion = dataclasses.replace(config.fusion, min_score=LEAST_SCORE)
    geometric = dataclasses.replace(config.geometric, min_score=LEAST_SCORE)
    return open_detector(word, dataclasses.replace(config, fusion=fusion, geometric=geometric))


def compared(
    args: argparse.Namespace, rig: Rig, contestants: Mapping[str, Contestant]
) -> dict[str, Any]:
    """Figures of contestants by name on the drives that are asked for, and what these were."""
    from multimodal_perception.evaluation.breakdown import MIN_POINTS, MIN_VISIBILITY
    from multimodal_perception.evaluation.detector_drives import compare, driven, drives
    from multimodal_perception.evaluation.nuscenes_metrics import NuScenesProtocol

    protocol = NuScenesProtocol.of(args.classes, args.max_range)
    chosen = drives(parse_seeds(args.seeds), args.frames_per_seed, args.every)
    total = len(chosen) * args.frames_per_seed

    def frames() -> Iterator[Any]:
        with tqdm(total=total, unit="frame") as bar:
            for drive, frame in driven(chosen, rig):
                yield drive, frame
                bar.update()

    rows = compare(frames(), contestants, protocol)
    return {
        "seeds": args.seeds,
        "rig": rig.name,
        "lidar": args.lidar,
        "frames": total,
        "scenarios": sorted({d.scenario for d in chosen}),
        "labels_that_count": {
            "metres": dict(protocol.ranges),
            "least_points": MIN_POINTS,
            "or_least_visibility": MIN_VISIBILITY,
        },
        "least_score": LEAST_SCORE,
        "rows": rows,
    }


def _by_view(rows: Mapping[str, Any]) -> Table:
    """mAP of rows by the images that see there."""
    first = next(iter(rows.values()))["by_view"]
    views = [view for view, part in first.items() if part["labels"]]
    table = Table("", *views, title="mAP by the images that see there")
    for name, figures in rows.items():
        table.add_row(name, *(f"{100 * figures['by_view'][v]['map']:.1f}" for v in views))
    return table


def report(title: str, result: Mapping[str, Any], path: Path | None) -> None:
    """Print the rows, mAP and AP in percent, and write the result where asked."""
    rows = result["rows"]
    first = next(iter(rows.values()))
    conditions, bands = list(first["by_condition"]), list(first["by_distance"])
    classes = [c for c, values in first["by_class"].items() if values["labels"]]
    whole = Table(title=f"{title}: {result['frames']} frames, seeds {result['seeds']}")
    parts = Table(title="AP by class")
    for table, names in (
        (whole, ("mAP", *conditions, *(f"{band} m" for band in bands), "p50 ms")),
        (parts, classes),
    ):
        table.add_column("", overflow="fold")
        for name in names:
            table.add_column(name, justify="right")
    for name, figures in rows.items():
        maps = [figures["map"], *(figures["by_condition"][c]["map"] for c in conditions)]
        maps += [figures["by_distance"][band]["map"] for band in bands]
        cells = [f"{100 * value:.1f}" for value in maps]
        whole.add_row(name, *cells, f"{figures['latency_ms']['p50']:.1f}")
        parts.add_row(name, *(f"{100 * figures['by_class'][c]['ap']:.1f}" for c in classes))
    console = Console()
    console.print(whole)
    console.print(parts)
    console.print(_by_view(rows))
    if path is not None:
        write_json(path, dict(result))
