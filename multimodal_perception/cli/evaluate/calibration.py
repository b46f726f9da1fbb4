"""How well drift of the calibration is found."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from tqdm import tqdm

from multimodal_perception.cli.drive_options import parse_seeds
from multimodal_perception.configuration import UserError
from multimodal_perception.evaluation.report import write_json

# Frames of each simulated drive; the first has moved from its start.
AT = (5, 30)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--root", type=Path, help="pairs to shift: holds visible/ and infrared/")
    parser.add_argument("--held-out", action="store_true", help="each fifth pair alone")
    parser.add_argument("--rigs", nargs="+", default=[], help="datasets whose cameras are turned")
    parser.add_argument("--seeds", metavar="A..B", help="simulated drives whose cameras are turned")
    parser.add_argument(
        "--turns", type=int, default=40, help="of 0.5 to 2 degrees, a frame and pair"
    )
    parser.add_argument(
        "--still", type=int, default=20, help="jitters up to 0.05 degrees, likewise"
    )
    parser.add_argument("--random", type=int, default=0, help="seed of shifts and turns")
    parser.add_argument("--json", type=Path, help="file for the result")


def run(args: argparse.Namespace) -> int:
    if args.root is None and not args.rigs and args.seeds is None:
        raise UserError("give --root, --rigs or --seeds: there is nothing to evaluate")
    for name in ("turns", "still"):
        if not 0 <= getattr(args, name) <= 10_000:
            raise UserError(f"--{name}: allowed: 0 to 10000; got {getattr(args, name)}")
    result: dict[str, Any] = {}
    if args.root is not None:
        result["pairs"] = _pairs(args)
    rows = {}
    for path in args.rigs:
        rows[path] = _turns(args, _recorded(path))
    if args.seeds is not None:
        rows[f"simulated {args.seeds}"] = _turns(args, _simulated(args.seeds))
    if rows:
        result["turns"] = rows
        _print(rows)
    if args.json is not None:
        write_json(args.json, result)
    return 0


def _pairs(args: argparse.Namespace) -> dict[str, Any]:
    from multimodal_perception.datasets.visible_thermal_pairs import held_out, pair_stems
    from multimodal_perception.evaluation.calibration import score_pairs

    stems = pair_stems(args.root)
    stems = held_out(stems) if args.held_out else stems
    figures = score_pairs(args.root, tqdm(stems, unit="pair"), args.random)
    print(
        f"{args.root}: {figures['pairs']} pairs shifted by 0 to 20 px, turned by up to 2 deg: "
        f"median error {figures['median_error_px']:.2f} px, 90 % within "
        f"{figures['p90_error_px']:.2f} px, {100 * figures['share_within_2_px']:.0f} % within 2 px"
    )
    return figures


def _turns(args: argparse.Namespace, frames: Iterator[tuple[str, Any]]) -> dict[str, Any]:
    from multimodal_perception.evaluation.calibration import drift_figures, turn_trials

    trials = turn_trials(frames, args.turns, args.still, seed=args.random)
    return drift_figures(tqdm(trials, unit="look"))


def _recorded(path: str) -> Iterator[tuple[str, Any]]:
    from multimodal_perception.datasets.open_dataset import open_dataset

    dataset = open_dataset(path)
    return ((str(i), dataset[i]) for i in range(len(dataset)))


def _simulated(seeds: str) -> Iterator[tuple[str, Any]]:
    """Frames of drives through all scenarios in turn, by day and by night."""
    from multimodal_perception.rig import load_rig, rig_path
    from multimodal_perception.simulation.simulation import Simulation
    from multimodal_perception.simulation.world.scenarios import scenario_names

    rig, names = load_rig(rig_path("simulation")), scenario_names()
    for k, seed in enumerate(parse_seeds(seeds)):
        conditions = ("night",) if k % 2 else ()
        name = names[k % len(names)]
        drive = Simulation(name, rig, seed, AT[-1] + 1, conditions)
        for i in AT:
            yield f"{name}, seed {seed}, frame {i}", drive[i]


def _print(rows: dict[str, dict[str, Any]]) -> None:
    table = Table(title="cameras turned by 0.5 to 2 deg, judged from one frame")
    table.add_column("pair", overflow="fold")
    for name in ("frames", "turns", "noticed", "still", "false alarms", "median error"):
        table.add_column(name, justify="right")
    for path, pairs in rows.items():
        for pair, f in pairs.items():
            noticed, alarms = (
                "-" if f[key] is None else f"{100 * f[key]:.1f} %"
                for key in ("noticed", "false_alarms")
            )
            error = "-" if f["median_error_deg"] is None else f"{f['median_error_deg']:.2f} deg"
            cells = (str(f["frames"]), str(f["turns"]), noticed, str(f["still"]), alarms, error)
            table.add_row(f"{Path(path).name}: {pair}", *cells)
    Console().print(table)
