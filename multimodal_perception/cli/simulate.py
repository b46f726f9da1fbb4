"""Simulate a drive: all sensors and the ground truth, as a bag or as shards for training."""

from __future__ import annotations

import argparse
import os
import signal
import sys
import threading
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

from multimodal_perception.cli.drive_options import parse_seeds
from multimodal_perception.cli.executor import (
    LOCAL,
    Executor,
    add_executor_arguments,
    executor_from,
    report_failures,
    run_drives,
)
from multimodal_perception.cli.inputs import expand_names
from multimodal_perception.configuration import UserError
from multimodal_perception.datasets.simulation_writer import (
    SimulationPlan,
    write_shards,
    write_simulation,
)
from multimodal_perception.extras import check_packages
from multimodal_perception.simulation.profile import PROFILE_HELP, PROFILES
from multimodal_perception.simulation.rigs import RIG_HELP, open_rig
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
        nargs="+",
        default=["urban_street"],
        help="name of an installed scenario (urban_street, intersection, highway, parking_lot, "
        "warehouse), path of a .yaml file, pattern such as 'scenarios/*.yaml', or @FILE with one of "
        "them on each line; several are simulated as drives of their own",
    )
    parser.add_argument("--rig", default="simulation", help=RIG_HELP)
    parser.add_argument("--profile", choices=PROFILES, default="realistic", help=PROFILE_HELP)
    parser.add_argument(
        "--sensor-rates",
        action="store_true",
        help="sensors measure at the rates of the rig, each with its own stamps; by default all "
        "sensors measure at the time of each frame",
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of scene, traffic and noise")
    parser.add_argument(
        "--seeds",
        metavar="A..B",
        help="several drives of each scenario, with these seeds instead of --seed",
    )
    parser.add_argument(
        "--frames", type=int, default=100, help="number of frames, at the rate of the first LiDAR"
    )
    parser.add_argument(
        "--out",
        type=Path,
        required=True,
        help="output folder; an interrupted one is resumed. Of several drives, the folder with a "
        "folder SCENARIO-SEED for each",
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
    add_executor_arguments(parser, workers=False, resume=False)


@dataclass(frozen=True)
class SimulationJob:
    """One simulated drive: its plan, the output folder and the format (bag or dataset)."""

    plan: SimulationPlan
    out: str
    format: str


def simulate_drive(job: SimulationJob) -> int:
    """Simulate a drive in this process, or resume it, and return its number of frames."""
    write = write_simulation if job.format == "bag" else write_shards
    return write(job.plan, Path(job.out), 1)


def run(args: argparse.Namespace) -> int:
    if not 1 <= args.workers <= MAX_WORKERS:
        raise UserError(f"--workers: allowed: 1 to {MAX_WORKERS}; got {args.workers}")
    check_packages("sim")
    if args.format == "bag":
        check_packages("bags")
    plans = _plans(args)
    executor = executor_from(args)
    if len(plans) > 1 or args.seeds is not None:
        return _simulate_all(args, plans, executor)
    if executor.kind != LOCAL:
        raise UserError("--executor ray: needs several drives: --seeds A..B or several --scenario")
    plan = plans[0]
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


def _plans(args: argparse.Namespace) -> list[SimulationPlan]:
    rig = open_rig(args.rig)
    seeds = [args.seed] if args.seeds is None else parse_seeds(args.seeds)
    return [
        SimulationPlan(
            load_scenario(scenario),
            rig,
            seed,
            args.frames,
            tuple(args.condition),
            tuple(parse_fault(f) for f in args.fault),
            args.profile,
            args.sensor_rates,
        )
        for scenario in expand_names(args.scenario)
        for seed in seeds
    ]


def _simulate_all(args: argparse.Namespace, plans: list[SimulationPlan], executor: Executor) -> int:
    """Simulate several drives, each in one process; an interrupted drive is resumed by its writer."""
    names = [f"{plan.scenario.name}-{plan.seed}" for plan in plans]
    if len(set(names)) < len(names):
        raise UserError(f"--scenario: two scenarios have the same name, {names[0]!r} for example")
    jobs = [
        SimulationJob(plan, str(args.out / name), args.format)
        for plan, name in zip(plans, names, strict=True)
    ]
    outcomes = run_drives(simulate_drive, jobs, names, executor)
    failed = report_failures(outcomes)
    frames = sum(o.result for o in outcomes if o.result is not None)
    print(f"{args.out}: {len(outcomes) - failed} drives, {frames} frames")
    return int(failed > 0)
