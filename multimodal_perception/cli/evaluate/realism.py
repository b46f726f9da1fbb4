"""`evaluate realism`: a detector on recorded frames and on simulated drives of both profiles."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from tqdm import tqdm

from multimodal_perception.cli.drive_options import open_low_threshold_detector, parse_seeds
from multimodal_perception.evaluation.class_sets import CLASS_SETS
from multimodal_perception.evaluation.report import write_json
from multimodal_perception.simulation.profile import PROFILES
from multimodal_perception.simulation.rigs import RIG_HELP, open_rig


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--root", required=True, help="labelled recording, for example PandaSet in nuScenes' layout"
    )
    parser.add_argument("--rig", default="pandaset_like", help=f"simulated rig: {RIG_HELP}")
    parser.add_argument(
        "--detector", default="bev_fusion", help="as in `evaluate subsets` (default: bev_fusion)"
    )
    parser.add_argument(
        "--seeds", default="20000..20011", metavar="A..B", help="seeds of the simulated drives"
    )
    parser.add_argument(
        "--scenarios",
        nargs="+",
        default=["urban_street", "intersection"],
        help="scenarios of the drives, in turn; choose those that resemble the recording",
    )
    parser.add_argument(
        "--frames-per-seed", type=int, default=3, help="evaluated frames of each drive, 2 s apart"
    )
    parser.add_argument(
        "--profiles", nargs="+", choices=PROFILES, default=list(PROFILES), help="simulated profiles"
    )
    parser.add_argument(
        "--class-set", choices=tuple(CLASS_SETS), default="six", help="evaluated classes"
    )
    parser.add_argument("--json", type=Path, help="write the result to this JSON file")


def run(args: argparse.Namespace) -> int:
    from multimodal_perception.cli.recordings import open_recording, print_notes
    from multimodal_perception.evaluation.simulation_gap import comparison_rows, score_frames

    protocol = CLASS_SETS[args.class_set].protocol()
    detector = open_low_threshold_detector(args.detector)
    recording = open_recording(args.root)
    recorded = score_frames(tqdm(recording, unit="frame"), detector, protocol)
    print_notes(recording)
    simulated = {
        profile: score_frames(_simulated_frames(args, profile), detector, protocol)
        for profile in args.profiles
    }
    result: dict[str, Any] = {
        "recording": recording.name,
        "rig": args.rig,
        "detector": args.detector,
        "seeds": args.seeds,
        "scenarios": args.scenarios,
        "frames": {
            "recorded": recorded["frames"],
            **{p: m["frames"] for p, m in simulated.items()},
        },
        "objects": {
            "recorded": recorded["objects"],
            **{p: m["objects"] for p, m in simulated.items()},
        },
        "points": {
            "recorded": recorded["points"],
            **{p: m["points"] for p, m in simulated.items()},
        },
        "rows": comparison_rows(recorded, simulated),
    }
    _print(result, args.profiles)
    if args.json is not None:
        write_json(args.json, result)
    return 0


def _simulated_frames(args: argparse.Namespace, profile: Any) -> Iterator[Any]:
    from multimodal_perception.simulation.simulation import Simulation

    rig, seeds = open_rig(args.rig), parse_seeds(args.seeds)
    interval = 20
    with tqdm(total=len(seeds) * args.frames_per_seed, desc=profile, unit="frame") as bar:
        for k, seed in enumerate(seeds):
            name = args.scenarios[k % len(args.scenarios)]
            count = interval * args.frames_per_seed
            drive = Simulation(name, rig, seed, count, profile=profile)
            for index in range(interval // 2, count, interval):
                yield drive[index]
                bar.update()


def _print(result: dict[str, Any], profiles: list[str]) -> None:
    from multimodal_perception.evaluation.simulation_gap import MIN_LABELS

    table = Table(title=f"AP of {result['detector']} in percent (labels), {result['frames']}")
    for name in ("class", "group", "recorded", *profiles):
        table.add_column(name, justify="left" if name in ("class", "group") else "right")
    for row in result["rows"]:
        cells = [_cell(row[key]) for key in ("recorded", *profiles)]
        style = "" if row["recorded"]["labels"] >= MIN_LABELS else "dim"
        table.add_row(row["class"], row["group"], *cells, style=style)
    Console().print(table)
    print(f"dim: fewer than {MIN_LABELS} recorded labels")
    for key in ("objects", "points"):
        print(f"{key}: {result[key]}")


def _cell(entry: dict[str, Any]) -> str:
    return "-" if entry["ap"] is None else f"{entry['ap']:.1f} ({entry['labels']})"
