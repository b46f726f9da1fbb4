"""Blocks of a warehouse aisle."""

from __future__ import annotations

import numpy as np

from multimodal_perception.simulation.world import scenery
from multimodal_perception.simulation.world.block_builder import (
    BLOCK_LENGTH,
    MARKING_HEIGHT,
    BlockBuilder,
)
from multimodal_perception.simulation.world.materials import Material
from multimodal_perception.simulation.world.meshes import Mesh, cuboid, rectangle


def build_warehouse(b: BlockBuilder) -> None:
    """Add an aisle between pallet racks with ceiling lamps, pedestrians, cones and low obstacles."""
    w = b.scenario.half_width
    b.add_scenery("road", rectangle(0, BLOCK_LENGTH, -24, 24, 0.0, Material.FLOOR))
    lines = [
        rectangle(0, BLOCK_LENGTH, y - 0.05, y + 0.05, MARKING_HEIGHT, Material.MARKING)
        for y in (-w + 0.15, w - 0.15)
    ]
    b.add_scenery("marking", *lines)
    b.add_scenery("building", _ceiling())
    pitch = 2.0 * w + 2.4
    for s in (-1, 1):
        b.add_scenery(
            "wall",
            cuboid((0, s * 23.8 - 0.2, 0), (BLOCK_LENGTH, s * 23.8 + 0.2, 9), Material.SHEET),
        )
        for aisle in range(2):
            for x in np.arange(0.5, BLOCK_LENGTH - 5.0, 2.7):
                for back in (0.0, 1.2):
                    y = s * (w + aisle * pitch + back)
                    shelf = scenery.pallet_rack(int(b.rng.integers(12)))
                    b.add_scenery("rack", shelf.moved_to((x, y if s > 0 else y - 1.1, 0.0)))
    for x in (8.0, 24.0):
        b.lamps.append((x, 0.0, 8.5))
        b.add_scenery(
            "building", cuboid((x - 0.6, -0.15, 8.7), (x + 0.6, 0.15, 8.9), Material.STREET_LAMP)
        )
    if b.rng.random() < b.scenario.pedestrian_density:
        y = float(b.rng.uniform(-4, 4))
        b.add_labelled("pedestrian", BLOCK_LENGTH - 2.0, y, float(b.rng.uniform(-3, 3)))
    if b.rng.random() < b.scenario.parking_occupancy:
        for k in range(3):
            b.add_labelled(
                "cone", BLOCK_LENGTH - 3.5 + 0.9 * k, 2.6 + float(b.rng.normal(0, 0.1)), 0.0
            )
    for s in (-1, 1):
        for x in np.arange(0.5, BLOCK_LENGTH - 5.0, 2.7):
            if b.rng.random() < 0.35:
                b.add_low_obstacle(float(x), s * (w - float(b.rng.uniform(0.08, 0.25))), 2.5)


def _ceiling() -> Mesh:
    """The ceiling of the hall, at a height of 9 m."""
    return rectangle(0, BLOCK_LENGTH, -24, 24, 9.0, Material.SHEET)
