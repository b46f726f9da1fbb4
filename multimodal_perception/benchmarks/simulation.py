"""Speed and memory of the simulator, and a comparison of simulated sweeps with KITTI's.

multimodal-perception bench simulate [--frames N] [--workers W] [--scenario NAME] [--json FILE]
multimodal-perception bench simulate --kitti FOLDER     compare simulated sweeps with KITTI
"""

from __future__ import annotations

import argparse
import os
import resource
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np

from multimodal_perception.benchmarks.report import add_json_argument, check_options, print_report
from multimodal_perception.datasets.simulation_writer import (
    SimulationPlan,
    encode_frame,
    generate_frames,
)
from multimodal_perception.evaluation.lidar_realism import compare_with_kitti
from multimodal_perception.rig import Rig
from multimodal_perception.simulation.profile import PROFILE_HELP, PROFILES, Profile
from multimodal_perception.simulation.rigs import RIG_HELP, open_rig
from multimodal_perception.simulation.simulation import Simulation
from multimodal_perception.simulation.world.scenarios import load_scenario

# Frames that are not measured, because they include compilation and the generation of the first blocks.
WARM_UP = 12


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--scenario", default="urban_street", help="name of a scenario (default: urban_street)"
    )
    parser.add_argument(
        "--frames", type=int, default=60, help="number of measured frames (default: 60)"
    )
    parser.add_argument("--workers", type=int, help="worker processes (default: one per CPU)")
    parser.add_argument(
        "--kitti",
        type=Path,
        help="KITTI training folder: compare simulated sweeps with its sweeps instead",
    )
    parser.add_argument("--profile", choices=PROFILES, default="basic", help=PROFILE_HELP)
    parser.add_argument("--rig", default="simulation", help=RIG_HELP)
    add_json_argument(parser)


def run(args: argparse.Namespace) -> int:
    check_options(args)
    if args.kitti is not None:
        result = compare_with_kitti(args.kitti, args.scenario, profile=args.profile)
    else:
        workers = args.workers or os.cpu_count() or 1
        result = measure(args.scenario, args.frames, workers, args.profile, open_rig(args.rig))
    print_report("simulate", result, args.json)
    return 0


def measure(scenario: str, frames: int, workers: int, profile: Profile, rig: Rig) -> dict[str, Any]:
    """Speed with all sensors, ground truth and serialization of all messages, and time per sensor."""
    plan = SimulationPlan(load_scenario(scenario), rig, 0, frames + WARM_UP, profile=profile)
    with closing(generate_frames(plan, encode_frame, range(plan.frames), workers)) as results:
        for _ in range(WARM_UP):
            next(results)
        start, size = time.perf_counter(), 0
        for encoded in results:
            size += sum(len(data) for *_, data in encoded)
        seconds = time.perf_counter() - start
    children = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss if workers > 1 else 0
    own = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {
        "scenario": scenario,
        "profile": profile,
        "rig": rig.name,
        "workers": workers,
        "frames": frames,
        "frames_per_s": frames / seconds,
        "mebibytes_per_frame": size / frames / 2**20,
        "memory_gib": (own + workers * children) / 2**20,
        "single_process_ms": _time_per_sensor(plan),
    }


def _time_per_sensor(plan: SimulationPlan) -> dict[str, float]:
    simulation = plan.simulation()
    times = [_elapsed_ms(simulation, i) for i in range(min(plan.frames, 30))][WARM_UP:]
    return {name: float(np.median([t[name] for t in times])) for name in times[0]}


def _elapsed_ms(simulation: Simulation, index: int) -> dict[str, float]:
    times = simulation.observe(index).elapsed_ms
    return {**times, "frame": sum(times.values())}
