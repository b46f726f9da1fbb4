"""Samples of simulated drives for the training of the detector."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import as_completed
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from multimodal_perception.datasets.simulation_writer import SimulationPlan, generate_frames
from multimodal_perception.processes import WorkerPool, initialise_worker
from multimodal_perception.rig import Rig
from multimodal_perception.simulation.profile import Profile
from multimodal_perception.simulation.random_rigs import random_rig
from multimodal_perception.simulation.simulation import Simulation
from multimodal_perception.simulation.world import scene
from multimodal_perception.simulation.world.materials import SEMANTIC_NAMES
from multimodal_perception.training.bev_fusion.sample_files import (
    Arrays,
    write_sample,
)
from multimodal_perception.training.detector.samples import (
    build_sample,
    segment_lookup_table,
)
from multimodal_perception.training.training_drives import (
    DetectorTrainingDrive,
    drive_for_seed,
)


def render_samples(
    seeds: Sequence[int],
    rig: Rig | None,
    frames: int,
    frame_interval: int,
    folder: Path,
    workers: int = 1,
    profile: Profile = "basic",
) -> int:
    """Write the samples of the drives of several seeds; existing samples are kept.

    rig: None for another random rig in each drive. frames: samples in each drive, `frame_interval`
    sweeps apart. workers: processes, each of which simulates a drive. Returns the number of samples
    written.
    """
    if workers == 1:
        bar = tqdm(seeds, "drives", unit="drive")
        return sum(
            write_drive(drive_for_seed(s, profile), rig, frames, frame_interval, folder)
            for s in bar
        )
    with WorkerPool(workers, _initialise_worker, (workers,)) as pool:
        tasks = [
            pool.submit(
                write_drive, drive_for_seed(s, profile), rig, frames, frame_interval, folder
            )
            for s in seeds
        ]
        bar = tqdm(as_completed(tasks), "drives", total=len(tasks), unit="drive")
        return sum(task.result() for task in bar)


def _initialise_worker(workers: int) -> None:
    initialise_worker()
    scene.RAYCAST_THREADS = max(1, (os.cpu_count() or 1) // workers)


def write_drive(
    drive: DetectorTrainingDrive,
    rig: Rig | None,
    frames: int,
    frame_interval: int,
    folder: Path,
    workers: int = 1,
    progress: Callable[[Iterable[int]], Iterable[int]] = iter,
) -> int:
    """Write `frames` samples of a drive, `frame_interval` sweeps apart; existing samples are kept.

    rig: None for the random rig of the drive's seed. workers: processes that simulate. Returns the
    number of samples written.
    """
    rig = random_rig(drive.seed) if rig is None else rig
    folder.mkdir(parents=True, exist_ok=True)
    indices = [
        k * frame_interval
        for k in range(frames)
        if not _path(folder, drive, k * frame_interval).exists()
    ]
    plan = SimulationPlan(
        drive.scenario_with_traffic(),
        rig,
        drive.seed,
        frames * frame_interval,
        drive.conditions,
        profile=drive.profile,
    )
    for index, arrays in zip(
        progress(indices), generate_frames(plan, simulated_sample, indices, workers), strict=True
    ):
        write_sample(_path(folder, drive, index), arrays)
    return len(indices)


def _path(folder: Path, drive: DetectorTrainingDrive, index: int) -> Path:
    return folder / f"{drive.seed:06d}_{index:05d}.npz"


def simulated_sample(simulation: Simulation, index: int) -> Arrays:
    """The sample of one frame of a simulation, with the semantic classes of its images."""
    frame = simulation[index]
    truth = simulation.truth(index)
    table = segment_lookup_table(SEMANTIC_NAMES)
    semantics: dict[str, NDArray[np.uint8]] = {
        name: table[view.semantics] for name, view in truth.views.items()
    }
    metadata = {
        "scenario": simulation.scenario.name,
        "seed": simulation.seed,
        "frame": index,
        "night": simulation.conditions.night,
        "fog": simulation.conditions.fog_visibility,
        "rain": simulation.conditions.rain,
    }
    return build_sample(frame, metadata, truth.visibility, semantics)
