"""A drive on the proving ground: all sensors and all that is true, as a bag or for training."""

from __future__ import annotations

import argparse
import os
import signal
import sys
import threading
from collections.abc import Iterable, Sequence
from pathlib import Path

from tqdm import tqdm

from multimodal_perception.configuration import UserError
from multimodal_perception.datasets.simulation_writer import (
    SimulationPlan,
    write_shards,
    write_simulation,
)
from multimodal_perception.rig import load_rig, rig_path
from multimodal_perception.simulation.sensors.conditions import (
    CONDITION_HELP,
    FAULT_HELP,
    parse_fault,
)
from multimodal_perception.simulation.world.scenarios import load_scenario

MOST_WORKERS = 64


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--scenario",
        default="urban_street",
        help="name (urban_street, intersection, highway, parking_lot, warehouse) or .yaml",
    )
    parser.add_argument("--rig", default="simulation", help="name in config/rigs, or a .yaml")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--frames", type=int, default=100, help="how many, at the LiDAR's rate")
    parser.add_argument(
        "--out", type=Path, required=True, help="folder to write, new or interrupted"
    )
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="processes")
    parser.add_argument(
        "--format",
        choices=("bag", "dataset"),
        default="bag",
        help="MCAP, or .npz a frame; an interrupted one is gone on with",
    )
    parser.add_argument(
        "--condition", action="append", default=[], metavar="NAME[=VALUE]", help=CONDITION_HELP
    )
    parser.add_argument("--fault", action="append", default=[], metavar="FAULT", help=FAULT_HELP)


def run(args: argparse.Namespace) -> int:
    if not 1 <= args.workers <= MOST_WORKERS:
        raise UserError(f"--workers: allowed: 1 to {MOST_WORKERS}; got {args.workers}")
    plan = SimulationPlan(
        load_scenario(args.scenario),
        load_rig(rig_path(args.rig)),
        args.seed,
        args.frames,
        tuple(args.condition),
        tuple(parse_fault(f) for f in args.fault),
    )
    write = write_simulation if args.format == "bag" else write_shards
    if threading.current_thread() is threading.main_thread():
        # A shell's background job ignores Ctrl-C's signal; `kill` and time limits send SIGTERM.
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        signal.signal(signal.SIGINT, signal.default_int_handler)

    def progress(indices: Sequence[int]) -> Iterable[int]:
        done = plan.frames - len(indices)
        name = plan.scenario.name
        return tqdm(indices, desc=name, unit="frame", initial=done, total=plan.frames)

    try:
        count = write(plan, args.out, args.workers, progress)
    except KeyboardInterrupt:
        print(f"{args.out}: whole as far as it goes; the same command goes on", file=sys.stderr)
        raise
    print(f"{args.out}: {count} frames")
    return 0
