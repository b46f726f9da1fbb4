"""Simulated drives in confined spaces for the training of the near-field network.

A shard (.npz) contains one drive of 2.4 s: the readings of all ultrasonic sensors at 10 Hz, and a
few frames with all fisheye images and the labels of the cells around the vehicle.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import as_completed
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from multimodal_perception.configuration import UserError
from multimodal_perception.files import atomic_write
from multimodal_perception.frame import Modality, VehicleFootprint
from multimodal_perception.processes import WorkerPool
from multimodal_perception.rig import Rig
from multimodal_perception.simulation.profile import Profile
from multimodal_perception.simulation.simulation import Simulation
from multimodal_perception.simulation.truth import FrameTruth, GridLayout
from multimodal_perception.simulation.world.materials import SEMANTIC_NAMES

# Seeds from here on are reserved for evaluation.
FIRST_EVALUATION_SEED = 10_000
# Classes of a cell in order of priority: a cell with several classes has the last one.
CLASSES = ("free", "kerb", "wall", "pole", "vehicle", "person")
# Label of cells without ground truth.
UNLABELLED = 255
SEMANTIC_MEMBERS = {
    "kerb": ("kerb",),
    "wall": ("building", "wall", "fence", "barrier", "rack", "furniture"),
    "pole": ("pole", "cone", "vegetation"),
    "vehicle": ("car", "van", "truck", "bus", "trailer"),
    "person": ("pedestrian", "cyclist", "motorcyclist"),
}
# Obstacles that LiDARs and cameras detect badly, because they are low, thin or transparent.
HARD_CLASSES = ("kerb", "wall", "fence", "barrier", "pole", "cone")
CELLS, RESOLUTION = 72, 0.2
# The ground truth grid is finer than the cells by this factor, so that thin poles are not missed.
FINE_FACTOR = 4
# Steps of 0.1 s per drive; every fourth step, from step 3 on, has images and labels.
DRIVE_STEPS, IMAGE_INTERVAL, FIRST_IMAGE_STEP = 24, 4, 3
# Scenario and conditions by seed modulo 10, ordered so that any few consecutive seeds contain a mixture.
DRIVE_MIX: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("parking_lot", ("night",)),
    ("parking_lot", ()),
    ("warehouse", ()),
    ("urban_street", ()),
    ("parking_lot", ("night",)),
    ("warehouse", ("unlit",)),
    ("urban_street", ("night",)),
    ("parking_lot", ("unlit",)),
    ("parking_lot", ("unlit",)),
    ("warehouse", ("unlit",)),
)


@dataclass(frozen=True)
class NearFieldDrive:
    """One simulated drive: scenario, conditions, seed, and index of its first frame."""

    scenario: str
    conditions: tuple[str, ...]
    seed: int
    start: int

    @property
    def name(self) -> str:
        """File name of its shard, without suffix."""
        return "-".join((self.scenario, *self.conditions, f"{self.seed:05d}"))


def plan_drives(seeds: Sequence[int]) -> list[NearFieldDrive]:
    """One drive per seed, with the scenarios and conditions of DRIVE_MIX."""
    return [
        NearFieldDrive(
            *DRIVE_MIX[seed % len(DRIVE_MIX)],
            seed,
            int(np.random.default_rng(seed).integers(20, 400)),
        )
        for seed in seeds
    ]


def simulate_drives(
    folder: Path,
    rig: Rig,
    seeds: Sequence[int],
    workers: int = 1,
    profile: Profile = "basic",
) -> list[Path]:
    """Simulate the drives of the seeds; existing shards are kept. Returns the paths of all shards.

    workers: number of processes. Raises UserError if the folder cannot be written.
    """
    selected = plan_drives(seeds)
    # Drives of different profiles can be in the same folder.
    suffix = "" if profile == "basic" else f"-{profile}"
    paths = [folder / f"{drive.name}{suffix}.npz" for drive in selected]
    missing = [(d, p) for d, p in zip(selected, paths, strict=True) if not p.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tqdm(total=len(paths), initial=len(paths) - len(missing), unit="drive") as bar:
            if workers <= 1:
                for drive, path in missing:
                    simulate_drive(drive, rig, path, profile)
                    bar.update()
                return paths
            with WorkerPool(workers) as pool:
                tasks = [
                    pool.submit(simulate_drive, drive, rig, path, profile)
                    for drive, path in missing
                ]
                for task in as_completed(tasks):
                    task.result()
                    bar.update()
    except OSError as error:
        raise UserError(f"{folder}: {error.strerror or error}") from error
    return paths


def simulate_drive(drive: NearFieldDrive, rig: Rig, path: Path, profile: Profile = "basic") -> None:
    """Simulate one drive and write its shard. An existing shard is kept."""
    if path.exists():
        return
    layout = GridLayout(CELLS * RESOLUTION / 2, RESOLUTION / FINE_FACTOR)
    count = drive.start + DRIVE_STEPS
    full = Simulation(
        drive.scenario, rig, drive.seed, count, drive.conditions, grid=layout, profile=profile
    )
    ultrasonic_rig = replace(rig, sensors=rig.sensors_of(Modality.ULTRASONIC))
    coarse = GridLayout(2.0, 1.0)
    ultrasonics = Simulation(
        drive.scenario,
        ultrasonic_rig,
        drive.seed,
        count,
        drive.conditions,
        grid=coarse,
        profile=profile,
    )
    names = list(ultrasonic_rig.sensors)
    ranges, motion, images, labels, hard, image_steps = [], [], [], [], [], []
    for step in range(DRIVE_STEPS):
        index = drive.start + step
        with_images = step % IMAGE_INTERVAL == FIRST_IMAGE_STEP
        observation = (full if with_images else ultrasonics).observe(index)
        frame = observation.frame
        ranges.append([frame.ultrasonics[n].range_m for n in names])
        motion.append(frame.odom_from_base)
        if with_images:
            images.append(np.stack([image.rgb() for image in frame.cameras.values()]))
            labels.append(cell_labels(observation.truth, rig.vehicle_footprint))
            hard.append(hard_cells(observation.truth))
            image_steps.append(step)
    # Written under another name first, so that an interrupted run leaves no incomplete shard.
    with atomic_write(path) as file:
        np.savez_compressed(
            file,
            ranges=np.array(ranges, np.float32),
            odom_from_base=np.array(motion),
            images=np.array(images),
            labels=np.array(labels),
            hard=np.array(hard),
            frames=np.array(image_steps),
            night=np.array(bool({"night", "unlit"} & set(drive.conditions))),
            scenario=np.array(drive.scenario),
        )


def cell_labels(truth: FrameTruth, vehicle_footprint: VehicleFootprint | None) -> NDArray[np.uint8]:
    """Labels (72, 72) uint8 of cells of 0.2 m: indices into CLASSES, or UNLABELLED.

    truth: ground truth with a grid four times finer. Cells that no sensor observes and cells inside
    the ego vehicle are UNLABELLED.
    """
    class_of = np.zeros(len(SEMANTIC_NAMES), np.uint8)
    for number, name in enumerate(CLASSES[1:], 1):
        class_of[[SEMANTIC_NAMES.index(member) for member in SEMANTIC_MEMBERS[name]]] = number
    known = (truth.occupancy.free > 0) | (truth.occupancy.occupied > 0)
    fine = np.where(known, class_of[truth.semantic_grid].astype(np.int16), -1)
    cells = fine.reshape(CELLS, FINE_FACTOR, CELLS, FINE_FACTOR).max(axis=(1, 3))
    result = np.where(cells < 0, UNLABELLED, cells).astype(np.uint8)
    if vehicle_footprint is not None:
        centres = (np.arange(CELLS) + 0.5 - CELLS / 2) * RESOLUTION
        cell_centres = np.stack(np.meshgrid(centres, centres), -1).reshape(-1, 2)
        result[vehicle_footprint.contains(cell_centres).reshape(result.shape)] = UNLABELLED
    return result


def hard_cells(truth: FrameTruth) -> NDArray[np.bool_]:
    """Mask (72, 72) of the cells that contain one of HARD_CLASSES.

    truth: ground truth with a grid four times finer.
    """
    is_hard = np.isin(
        np.arange(len(SEMANTIC_NAMES)), [SEMANTIC_NAMES.index(n) for n in HARD_CLASSES]
    )
    fine = is_hard[truth.semantic_grid].reshape(CELLS, FINE_FACTOR, CELLS, FINE_FACTOR)
    return np.asarray(fine.any(axis=(1, 3)), np.bool_)
