"""Simulate a drive: all sensors and the ground truth, as a bag or as shards for training."""

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
from multimodal_perception.rig import load_rig, resolve_rig_path
from multimodal_perception.simulation.sensors.conditions import (
    CONDITION_HELP,
    FAULT_HELP,
    parse_fault,
)
from multimodal_perception.simulation.world.scenarios import load_scenario

MAX_WORKERS = 64


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--scenario",
        default="urban_street",
        help="name of an installed scenario (urban_street, intersection, highway, parking_lot, "
        "warehouse) or path of a .yaml file",
    )
    parser.add_argument(
        "--rig", default="simulation", help="name in config/rigs, or path of a .yaml file"
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of scene, traffic and noise")
    parser.add_argument(
        "--frames", type=int, default=100, help="number of frames, at the rate of the first LiDAR"
    )
    parser.add_argument(
        "--out", type=Path, required=True, help="output folder; an interrupted one is resumed"
    )
    parser.add_argument(
        "--workers", type=int, default=os.cpu_count() or 1, help="number of worker processes"
    )
    parser.add_argument(
        "--format",
        choices=("bag", "dataset"),
        default="bag",
        help="bag: rosbag2 in MCAP format; dataset: one .npz file per frame",
    )
    parser.add_argument(
        "--condition",
        action="append",
        default=[],
        metavar="NAME[=VALUE]",
        help=f"weather or light, may be repeated: {CONDITION_HELP}",
    )
    parser.add_argument(
        "--fault",
        action="append",
        default=[],
        metavar="FAULT",
        help=f"sensor fault, may be repeated: {FAULT_HELP}",
    )


def run(args: argparse.Namespace) -> int:
    if not 1 <= args.workers <= MAX_WORKERS:
        raise UserError(f"--workers: allowed: 1 to {MAX_WORKERS}; got {args.workers}")
    plan = SimulationPlan(
        load_scenario(args.scenario),
        load_rig(resolve_rig_path(args.rig)),
        args.seed,
        args.frames,
        tuple(args.condition),
        tuple(parse_fault(f) for f in args.fault),
    )
    write = write_simulation if args.format == "bag" else write_shards
    if threading.current_thread() is threading.main_thread():
        # Background jobs of a shell ignore SIGINT, and `kill` and time limits send SIGTERM: both must
        # interrupt the run so that the bag is closed properly.
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        signal.signal(signal.SIGINT, signal.default_int_handler)

    def progress(indices: Sequence[int]) -> Iterable[int]:
        done = plan.frames - len(indices)
        name = plan.scenario.name
        return tqdm(indices, desc=name, unit="frame", initial=done, total=plan.frames)

    try:
        count = write(plan, args.out, args.workers, progress)
    except KeyboardInterrupt:
        print(
            f"{args.out}: interrupted; the output is valid, and the same command resumes it",
            file=sys.stderr,
        )
        raise
    print(f"{args.out}: {count} frames")
    return 0
