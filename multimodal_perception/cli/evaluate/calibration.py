"""`evaluate calibration`: detection of known rotations and shifts by the calibration monitor."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from tqdm import tqdm

from multimodal_perception.cli.drive_options import add_profile_argument, parse_seeds
from multimodal_perception.configuration import UserError
from multimodal_perception.evaluation.report import write_json
from multimodal_perception.simulation.profile import Profile
from multimodal_perception.simulation.rigs import RIG_HELP, open_rig

# Evaluated frames of each simulated drive. Frame 0 is excluded because there is no motion before it.
FRAME_INDICES = (5, 30)
# Frames between two frames of a window, and scenarios of the windows.
WINDOW_INTERVAL = 10
WINDOW_SCENARIOS = ("urban_street", "highway", "intersection", "parking_lot")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--root",
        type=Path,
        help="folder of image pairs (visible/ and infrared/) to which known shifts are applied",
    )
    parser.add_argument(
        "--held-out", action="store_true", help="use only the test split, every fifth pair"
    )
    parser.add_argument(
        "--datasets",
        nargs="+",
        default=[],
        help="datasets whose camera extrinsics get known rotation errors",
    )
    parser.add_argument(
        "--seeds",
        metavar="A..B",
        help="simulated drives whose camera extrinsics get known rotation errors",
    )
    add_profile_argument(parser)
    parser.add_argument(
        "--rig", default="simulation", help=f"rig of the simulated drives; {RIG_HELP}"
    )
    parser.add_argument(
        "--window",
        type=int,
        default=0,
        metavar="N",
        help="evaluate windows of N frames of each drive, 1 s apart, as the monitor does, also with "
        "translation errors (default: single frames, rotation errors only)",
    )
    parser.add_argument(
        "--translations",
        type=int,
        default=10,
        help="with --window: number of translation errors of 5 to 20 cm per drive and sensor pair",
    )
    parser.add_argument(
        "--rotations",
        type=int,
        default=40,
        help="number of rotation errors of 0.5 to 2 degrees per frame (with --window: per drive) and "
        "sensor pair",
    )
    parser.add_argument(
        "--jitters",
        type=int,
        default=20,
        help="number of rotation errors of up to 0.05 degrees per frame (with --window: per drive) and "
        "sensor pair",
    )
    parser.add_argument(
        "--random-seed", type=int, default=0, help="random seed of the shifts and rotations"
    )
    parser.add_argument("--json", type=Path, help="write the result to this JSON file")


def run(args: argparse.Namespace) -> int:
    if args.root is None and not args.datasets and args.seeds is None:
        raise UserError("nothing to evaluate: give --root, --datasets or --seeds")
    result: dict[str, Any] = {}
    if args.root is not None:
        result["pairs"] = _pairs(args)
    if args.window:
        return _windows(args, result)
    rows = {}
    for path in args.datasets:
        rows[path] = _rotations(args, _recorded_frames(path))
    if args.seeds is not None:
        rows[f"simulated {args.seeds}"] = _rotations(
            args, _simulated_frames(args.seeds, args.rig, args.profile)
        )
    if rows:
        result["rotations"] = rows
        _print(rows)
    if args.json is not None:
        write_json(args.json, result)
    return 0


def _pairs(args: argparse.Namespace) -> dict[str, Any]:
    from multimodal_perception.datasets.visible_thermal_pairs import held_out_stems, list_pair_stems
    from multimodal_perception.evaluation.calibration import score_pairs

    stems = list_pair_stems(args.root)
    stems = held_out_stems(stems) if args.held_out else stems
    metrics = score_pairs(args.root, tqdm(stems, unit="pair"), args.random_seed)
    print(
        f"{args.root}: {metrics['pairs']} pairs, shifted by 0 to 20 px and rotated by up to 2 deg: "
        f"median error {metrics['median_error_px']:.2f} px, 90 % within "
        f"{metrics['p90_error_px']:.2f} px, {100 * metrics['fraction_within_2_px']:.0f} % within 2 px"
    )
    return metrics


def _windows(args: argparse.Namespace, result: dict[str, Any]) -> int:
    from multimodal_perception.evaluation.calibration import window_metrics, window_trials

    if not 1 <= args.window <= 1000 or args.seeds is None:
        raise UserError("--window: allowed: 1 to 1000, together with --seeds")
    drives = _simulated_windows(args.seeds, args.rig, args.profile, args.window)
    trials = window_trials(
        drives, args.rotations, args.jitters, args.translations, seed=args.random_seed
    )
    result["windows"] = window_metrics(tqdm(trials, unit="trial"))
    table = Table(title=f"windows of {args.window} frames, rig {args.rig}")
    table.add_column("figure")
    for pair in result["windows"]:
        table.add_column(pair, justify="right", overflow="fold")
    for figure in next(iter(result["windows"].values())):
        values = (metrics[figure] for metrics in result["windows"].values())
        table.add_row(figure, *("-" if v is None else f"{v:.3g}" for v in values))
    Console().print(table)
    if args.json is not None:
        write_json(args.json, result)
    return 0


def _simulated_windows(
    seeds: str, rig_name: str, profile: Profile, frames: int
) -> Iterator[tuple[str, list[Any]]]:
    """Frames of simulated drives, 1 s apart; scenario and time of day change from seed to seed."""
    from multimodal_perception.simulation.simulation import Simulation

    rig = open_rig(rig_name)
    for k, seed in enumerate(parse_seeds(seeds)):
        name = WINDOW_SCENARIOS[k % len(WINDOW_SCENARIOS)]
        conditions = ("night",) if k % 3 == 2 else ()
        count = FRAME_INDICES[0] + WINDOW_INTERVAL * frames
        drive = Simulation(name, rig, seed, count, conditions, profile=profile)
        indices = range(FRAME_INDICES[0], count, WINDOW_INTERVAL)
        yield f"{name}, seed {seed}", [drive[i] for i in indices]


def _rotations(args: argparse.Namespace, frames: Iterator[tuple[str, Any]]) -> dict[str, Any]:
    from multimodal_perception.evaluation.calibration import drift_metrics, rotation_trials

    trials = rotation_trials(frames, args.rotations, args.jitters, seed=args.random_seed)
    return drift_metrics(tqdm(trials, unit="trial"))


def _recorded_frames(path: str) -> Iterator[tuple[str, Any]]:
    from multimodal_perception.cli.recordings import open_recording

    dataset = open_recording(path)
    return ((str(i), dataset[i]) for i in range(len(dataset)))


def _simulated_frames(seeds: str, rig_name: str, profile: Profile) -> Iterator[tuple[str, Any]]:
    """Frames of simulated drives; scenario and time of day change from seed to seed."""
    from multimodal_perception.simulation.simulation import Simulation
    from multimodal_perception.simulation.world.scenarios import scenario_names

    rig, names = open_rig(rig_name), scenario_names()
    for k, seed in enumerate(parse_seeds(seeds)):
        conditions = ("night",) if k % 2 else ()
        name = names[k % len(names)]
        drive = Simulation(name, rig, seed, FRAME_INDICES[-1] + 1, conditions, profile=profile)
        for i in FRAME_INDICES:
            yield f"{name}, seed {seed}, frame {i}", drive[i]


def _print(rows: dict[str, dict[str, Any]]) -> None:
    table = Table(title="rotation errors of 0.5 to 2 deg, detection from single frames")
    table.add_column("pair", overflow="fold")
    for name in (
        "frames",
        "rotations",
        "detection rate",
        "jitters",
        "false alarm rate",
        "median error",
    ):
        table.add_column(name, justify="right")
    for path, pairs in rows.items():
        for pair, m in pairs.items():
            detected, alarms = (
                "-" if m[key] is None else f"{100 * m[key]:.1f} %"
                for key in ("detection_rate", "false_alarm_rate")
            )
            error = "-" if m["median_error_deg"] is None else f"{m['median_error_deg']:.2f} deg"
            table.add_row(
                f"{Path(path).name}: {pair}",
                str(m["frames"]),
                str(m["rotations"]),
                detected,
                str(m["jitters"]),
                alarms,
                error,
            )
    Console().print(table)
