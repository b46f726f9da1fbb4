"""Simulated image pairs for the training of the image fusion."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from tqdm import tqdm

from multimodal_perception.configuration import UserError
from multimodal_perception.datasets.simulation_writer import (
    SimulationPlan,
    generate_frames,
    shard_arrays,
    shard_path,
)
from multimodal_perception.files import atomic_write
from multimodal_perception.rig import Rig
from multimodal_perception.simulation.profile import Profile
from multimodal_perception.training.training_drives import drive_for_seed

# The arrays of a shard that the training uses.
STORED = ("camera.pixels", "thermal.pixels", "truth.camera.semantics")


def render_pairs(
    folder: Path,
    rig: Rig,
    seeds: Sequence[int],
    frames: int,
    frame_interval: int,
    workers: int = 1,
    profile: Profile = "basic",
) -> list[Path]:
    """Write the image pairs of simulated drives, one folder for each seed; existing files are kept.

    rig: with the sensors camera and thermal. frames: pairs in each drive, `frame_interval` frames
    apart. Returns the folders. Raises UserError when they cannot be written.
    """
    folders = [folder / f"{seed:06d}" for seed in seeds]
    try:
        for seed, out in zip(tqdm(seeds, "drives", unit="drive"), folders, strict=True):
            out.mkdir(parents=True, exist_ok=True)
            indices = [k * frame_interval for k in range(frames)]
            missing = [k for k in indices if not shard_path(out, k).exists()]
            drive = drive_for_seed(seed, profile)
            scenario = drive.scenario_with_traffic()
            plan = SimulationPlan(
                scenario,
                rig,
                seed,
                frames * frame_interval,
                drive.conditions,
                profile=profile,
            )
            arrays = generate_frames(plan, shard_arrays, missing, min(workers, len(missing)))
            for index, values in zip(missing, arrays, strict=True):
                stored = {name: values[name] for name in STORED if name in values}
                with atomic_write(shard_path(out, index)) as file:
                    np.savez_compressed(file, allow_pickle=False, **stored)
    except OSError as error:
        raise UserError(f"{folder}: {error.strerror or error}") from error
    return folders
