"""Blocks of a highway with two carriageways."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from multimodal_perception.simulation.world import scenery
from multimodal_perception.simulation.world.block_builder import (
    BLOCK_LENGTH,
    MARKING_HEIGHT,
    BlockBuilder,
    dashed_line,
)
from multimodal_perception.simulation.world.materials import Material
from multimodal_perception.simulation.world.meshes import cuboid, rectangle


def build_highway(b: BlockBuilder) -> None:
    """Add two carriageways of three lanes, guard rails, verges and, in every fifth block, a gantry."""
    w = b.scenario.half_width
    b.add_scenery(
        "road",
        rectangle(0, BLOCK_LENGTH, 1.2, w, 0.0, Material.ASPHALT),
        rectangle(0, BLOCK_LENGTH, -w, -1.2, 0.0, Material.ASPHALT),
    )
    marks = []
    for s in (-1, 1):
        for y in (5.6, 9.4):
            marks += dashed_line(s * y, 0.15, 6.0, 14.0)
        for y in (1.8, 13.2):
            low, high = s * y - 0.1, s * y + 0.1
            marks.append(rectangle(0, BLOCK_LENGTH, low, high, MARKING_HEIGHT, Material.MARKING))
        low, high = sorted((s * w, s * 70.0))
        b.add_scenery("terrain", rectangle(0, BLOCK_LENGTH, low, high, -0.02, Material.GRASS))
        rail = scenery.guard_rail(BLOCK_LENGTH)
        b.add_scenery("barrier", rail.moved_to((0, s * 0.8, 0)))
        b.add_scenery("barrier", rail.moved_to((0, s * (w + 0.6), 0)))
        b.clutter_positions += [
            (x, s * (w + offset), -0.02, 10.0) for x, offset in _sample_verge_positions(b)
        ]
        if b.rng.random() < 0.35:
            low, high = sorted((s * (w + 4.0), s * (w + 4.3)))
            b.add_scenery("wall", cuboid((0, low, 0), (BLOCK_LENGTH, high, 3.5), Material.SHEET))
        else:
            for _ in range(int(12 * b.scenario.tree_density)):
                y = s * (w + float(b.rng.uniform(6, 40)))
                position = (float(b.rng.uniform(0, BLOCK_LENGTH)), y, 0.0)
                b.add_scenery("vegetation", scenery.tree(int(b.rng.integers(8))).moved_to(position))
    b.add_scenery("terrain", rectangle(0, BLOCK_LENGTH, -1.2, 1.2, 0.0, Material.GRASS))
    b.add_scenery("marking", *marks)
    if b.number % 5 == 2:
        gantry = [
            cuboid((19.8, s * (w + 1.2) - 0.2, 0), (20.2, s * (w + 1.2) + 0.2, 7), Material.STEEL)
            for s in (-1, 1)
        ]
        gantry.append(cuboid((19.8, -w - 1.2, 6.4), (20.2, w + 1.2, 7.0), Material.STEEL))
        gantry.append(cuboid((19.5, -11.5, 5.6), (19.7, -4.5, 8.2), Material.SIGN))
        b.add_scenery("pole", *gantry)


def _sample_verge_positions(b: BlockBuilder) -> NDArray[np.float64]:
    """Positions for clutter (N, 2) on one verge: x, and distance from the carriageway in metres."""
    if b.scenario.clutter_density == 0:
        return np.zeros((0, 2))
    return np.column_stack([b.rng.uniform(0, BLOCK_LENGTH, 14), 1.4 + b.rng.gamma(1.5, 3.0, 14)])
