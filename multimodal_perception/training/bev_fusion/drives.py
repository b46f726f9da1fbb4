"""Simulated drives for the training of the BEV fusion detector, and their rendering."""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import as_completed
from dataclasses import dataclass, field
from pathlib import Path

from tqdm import tqdm

from multimodal_perception.datasets.simulation_writer import SimulationPlan
from multimodal_perception.detection.bev_fusion.network_config import BevFusionNetworkConfig
from multimodal_perception.processes import WorkerPool, initialise_worker
from multimodal_perception.rig import Rig
from multimodal_perception.simulation.profile import Profile
from multimodal_perception.simulation.random_rigs import random_rig
from multimodal_perception.simulation.simulation import Simulation
from multimodal_perception.simulation.truth import GridLayout
from multimodal_perception.simulation.world import scene
from multimodal_perception.training.bev_fusion.sample_files import write_sample
from multimodal_perception.training.bev_fusion.samples import build_sample
from multimodal_perception.training.training_drives import drive_for_seed

# Every BASIC_INTERVAL-th seed is a drive of the simulator's basic profile, and every
# FIXED_RIG_INTERVAL-th has the fixed rig; both apply to some seeds.
BASIC_INTERVAL, FIXED_RIG_INTERVAL = 7, 5


@dataclass(frozen=True)
class Rendering:
    """The samples that are stored of each drive.

    rig: sensors of every FIXED_RIG_INTERVAL-th drive; all others have random rigs. frames: samples of a
    drive. frame_interval: sweeps between them. config: sizes of the images and number of past sweeps.
    lidar: whether samples contain points.
    """

    rig: Rig
    frames: int
    frame_interval: int
    config: BevFusionNetworkConfig = field(default_factory=BevFusionNetworkConfig)
    lidar: bool = True

    def indices(self, seed: int) -> list[int]:
        """Indices of the stored frames in the simulation. The first one has all its past sweeps."""
        first = self.config.past_sweeps + seed % self.frame_interval
        return [first + k * self.frame_interval for k in range(self.frames)]


def profile_of_seed(seed: int) -> Profile:
    """The simulator's profile of a training drive."""
    return "basic" if seed % BASIC_INTERVAL == 0 else "realistic"


def rig_of_seed(seed: int, fixed: Rig) -> Rig:
    """The rig of a training drive."""
    return fixed if seed % FIXED_RIG_INTERVAL == 0 else random_rig(seed)


def describe_rigs(fixed: str) -> str:
    """The rigs of the training drives in words. fixed: name of the fixed rig."""
    return (
        f"the rig {fixed} where the seed is a multiple of {FIXED_RIG_INTERVAL}, a random rig in each "
        "of the other drives"
    )


def open_drive(seed: int, rendering: Rendering) -> Simulation:
    """The simulation of a training drive, without the ground truth of the occupancy."""
    drive = drive_for_seed(seed, profile_of_seed(seed))
    plan = SimulationPlan(
        drive.scenario_with_traffic(),
        rig_of_seed(seed, rendering.rig),
        seed,
        rendering.indices(seed)[-1] + 1,
        drive.conditions,
        profile=drive.profile,
    )
    return Simulation(
        plan.scenario,
        plan.rig,
        plan.seed,
        plan.frames,
        plan.conditions,
        # A grid of four cells takes no time; samples do not contain it.
        grid=GridLayout(1.0, 1.0),
        profile=plan.profile,
    )


def render_drives(
    seeds: Sequence[int], rendering: Rendering, folder: Path, workers: int = 1
) -> int:
    """Write the samples of the drives of several seeds; existing samples are kept.

    workers: processes, each of which simulates a drive. Returns the number of samples written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if workers == 1:
        bar = tqdm(seeds, "drives", unit="drive")
        return sum(render_drive(seed, rendering, folder) for seed in bar)
    with WorkerPool(workers, _initialise_worker, (workers,)) as pool:
        tasks = [pool.submit(render_drive, seed, rendering, folder) for seed in seeds]
        bar = tqdm(as_completed(tasks), "drives", total=len(tasks), unit="drive")
        return sum(task.result() for task in bar)


def render_drive(seed: int, rendering: Rendering, folder: Path) -> int:
    """Write the samples of one drive that do not exist. Returns the number of samples written."""
    paths = {i: folder / f"{seed:06d}_{i:05d}.npz" for i in rendering.indices(seed)}
    missing = [i for i, path in paths.items() if not path.exists()]
    if not missing:
        return 0
    simulation = open_drive(seed, rendering)
    for index in missing:
        sample = build_sample(simulation, index, rendering.config, rendering.lidar)
        write_sample(paths[index], sample)
    return len(missing)


def _initialise_worker(workers: int) -> None:
    initialise_worker()
    scene.RAYCAST_THREADS = max(1, (os.cpu_count() or 1) // workers)
