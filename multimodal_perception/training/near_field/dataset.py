"""Simulated drives through narrow places, for the learned near field: images, echoes and truth.

A shard (.npz) holds one drive of 2.4 s: what every ultrasonic said ten times a second, and a few frames
with all fisheye images and the labels of the cells around the vehicle.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from multimodal_perception.frame import Modality, OwnVehicle
from multimodal_perception.rig import Rig
from multimodal_perception.simulation.simulation import Simulation
from multimodal_perception.simulation.truth import FrameTruth, GridLayout
from multimodal_perception.simulation.world.materials import SEMANTIC_NAMES

# What a cell can hold, from harmless to most worth sparing; a cell of several takes the last.
CLASSES = ("free", "kerb", "wall", "pole", "vehicle", "person")
UNSEEN = 255
MEMBERS = {
    "kerb": ("kerb",),
    "wall": ("building", "wall", "fence", "barrier", "rack", "furniture"),
    "pole": ("pole", "cone", "vegetation"),
    "vehicle": ("car", "van", "truck", "bus"),
    "person": ("pedestrian", "cyclist"),
}
# What a bumper meets before a LiDAR or an eye does: low, thin or clear.
HARD = ("kerb", "wall", "fence", "barrier", "pole", "cone")
CELLS, RESOLUTION = 72, 0.2
FINER = 4  # truth is looked up so much finer than the cells, so that poles are not missed
LENGTH, EVERY, BEFORE = 24, 4, 3
# Of ten drives: scenario and conditions, in an order in which every few have some of each.
MIX: tuple[tuple[str, tuple[str, ...]], ...] = (
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
class Drive:
    """Where, in which conditions, with which seed, and from which frame on."""

    scenario: str
    conditions: tuple[str, ...]
    seed: int
    start: int

    @property
    def name(self) -> str:
        """Of its shard, without ending."""
        return "-".join((self.scenario, *self.conditions, f"{self.seed:05d}"))


def drives(seeds: Sequence[int]) -> list[Drive]:
    """One drive a seed, scenarios mixed evenly."""
    return [
        Drive(*MIX[seed % len(MIX)], seed, int(np.random.default_rng(seed).integers(20, 400)))
        for seed in seeds
    ]


def record(drive: Drive, rig: Rig, path: Path) -> None:
    """Simulate one drive and write its shard; a shard that is there is left as it is."""
    if path.exists():
        return
    layout = GridLayout(CELLS * RESOLUTION / 2, RESOLUTION / FINER)
    count = drive.start + LENGTH
    full = Simulation(drive.scenario, rig, drive.seed, count, drive.conditions, grid=layout)
    deaf = replace(rig, sensors=rig.of(Modality.ULTRASONIC))
    coarse = GridLayout(2.0, 1.0)
    sound = Simulation(drive.scenario, deaf, drive.seed, count, drive.conditions, grid=coarse)
    names = list(deaf.sensors)
    ranges, motion, images, labels, hard, at = [], [], [], [], [], []
    for step in range(LENGTH):
        index = drive.start + step
        with_images = step % EVERY == BEFORE
        observation = (full if with_images else sound).observe(index)
        frame = observation.frame
        ranges.append([frame.ultrasonics[n].range_m for n in names])
        motion.append(frame.odom_from_base)
        if with_images:
            images.append(np.stack([image.rgb() for image in frame.cameras.values()]))
            labels.append(cell_labels(observation.truth, rig.own_vehicle))
            hard.append(hard_cells(observation.truth))
            at.append(step)
    # Under another name until it is whole, so that an interrupted run leaves no broken shard.
    partial = path.with_suffix(".partial")
    with partial.open("wb") as file:
        np.savez_compressed(
            file,
            ranges=np.array(ranges, np.float32),
            odom_from_base=np.array(motion),
            images=np.array(images),
            labels=np.array(labels),
            hard=np.array(hard),
            frames=np.array(at),
            night=np.array(bool({"night", "unlit"} & set(drive.conditions))),
            scenario=np.array(drive.scenario),
        )
    partial.rename(path)


def cell_labels(truth: FrameTruth, own_vehicle: OwnVehicle | None) -> NDArray[np.uint8]:
    """Labels (72, 72) uint8, index into CLASSES, of cells of 0.2 m; 255 where nobody looks.

    truth: of a grid four times finer. Nothing is told of where the vehicle itself stands.
    """
    kinds = np.zeros(len(SEMANTIC_NAMES), np.uint8)
    for number, name in enumerate(CLASSES[1:], 1):
        kinds[[SEMANTIC_NAMES.index(member) for member in MEMBERS[name]]] = number
    known = (truth.occupancy.free > 0) | (truth.occupancy.occupied > 0)
    fine = np.where(known, kinds[truth.semantic_grid].astype(np.int16), -1)
    cells = fine.reshape(CELLS, FINER, CELLS, FINER).max(axis=(1, 3))
    result = np.where(cells < 0, UNSEEN, cells).astype(np.uint8)
    if own_vehicle is not None:
        middles = (np.arange(CELLS) + 0.5 - CELLS / 2) * RESOLUTION
        places = np.stack(np.meshgrid(middles, middles), -1).reshape(-1, 2)
        result[own_vehicle.holds(places).reshape(result.shape)] = UNSEEN
    return result


def hard_cells(truth: FrameTruth) -> NDArray[np.bool_]:
    """Which cells (72, 72) hold something that is HARD; truth: of a grid four times finer."""
    kinds = np.isin(np.arange(len(SEMANTIC_NAMES)), [SEMANTIC_NAMES.index(n) for n in HARD])
    fine = kinds[truth.semantic_grid].reshape(CELLS, FINER, CELLS, FINER)
    return np.asarray(fine.any(axis=(1, 3)), np.bool_)
