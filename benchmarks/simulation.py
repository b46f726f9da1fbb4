"""Frames a second and milliseconds a sensor of the simulator, its memory, and KITTI beside it.

multimodal-perception bench simulate [--frames N] [--workers W] [--scenario NAME] [--json FILE]
python benchmarks/simulation.py --kitti FOLDER      the table of simulated against real sweeps
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import sys
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np

from multimodal_perception.datasets.simulation_writer import SimulationPlan, encoded_frame, made
from multimodal_perception.evaluation.lidar_realism import compare
from multimodal_perception.resources import share_path
from multimodal_perception.rig import load_rig
from multimodal_perception.simulation.simulation import Simulation
from multimodal_perception.simulation.world.scenarios import load_scenario

# Compiling and the first block are not the speed of a drive.
WARM_UP = 12


def run(args: argparse.Namespace) -> dict[str, Any]:
    """The figures, for `multimodal-perception bench simulate`; with `kitti`, the comparison."""
    scenario = args.scenario or "urban_street"
    if args.kitti is not None:
        return compare(args.kitti, scenario)
    return measure(scenario, args.frames or 60, args.workers or os.cpu_count() or 1)


def measure(scenario: str, frames: int, workers: int) -> dict[str, Any]:
    """Speed with all sensors, all truth and the encoding of all messages; alone, per sensor."""
    rig = load_rig(share_path("config", "rigs", "simulation.yaml"))
    plan = SimulationPlan(load_scenario(scenario), rig, 0, frames + WARM_UP)
    with closing(made(plan, encoded_frame, range(plan.frames), workers)) as results:
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
        "workers": workers,
        "frames": frames,
        "frames_per_s": frames / seconds,
        "mebibytes_a_frame": size / frames / 2**20,
        "memory_gib": (own + workers * children) / 2**20,
        "one_process_ms": _by_sensor(plan),
    }


def _by_sensor(plan: SimulationPlan) -> dict[str, float]:
    simulation = plan.simulation()
    spent = [_spent(simulation, i) for i in range(min(plan.frames, 30))][WARM_UP:]
    return {name: float(np.median([s[name] for s in spent])) for name in spent[0]}


def _spent(simulation: Simulation, index: int) -> dict[str, float]:
    spent = simulation.observe(index).spent_ms
    return {**spent, "whole frame": sum(spent.values())}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scenario")
    parser.add_argument("--frames", type=int)
    parser.add_argument("--workers", type=int)
    parser.add_argument("--kitti", type=Path, help="KITTI's training folder")
    args = parser.parse_args()
    result = run(args)
    if args.kitti is None:
        print(json.dumps(result, indent=1))
        return 0
    print(f"{'':46}{'real':>12}{'simulated':>12}{'ratio':>8}")
    for name, row in result.items():
        print(f"{name:46}{row['real']:12.4g}{row['simulated']:12.4g}{row['ratio']:8.2f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
