"""Blocks of a parking lot."""

from __future__ import annotations

import numpy as np

from multimodal_perception.simulation.world import scenery
from multimodal_perception.simulation.world.block_builder import (
    BLOCK_LENGTH,
    KERB_HEIGHT,
    MARKING_HEIGHT,
    BlockBuilder,
)
from multimodal_perception.simulation.world.materials import Material
from multimodal_perception.simulation.world.meshes import cuboid, rectangle


def build_parking_lot(b: BlockBuilder) -> None:
    """Add three aisles with rows of parking bays across, kerbed islands, lamps and low obstacles."""
    w = b.scenario.half_width
    b.add_scenery("road", rectangle(0, BLOCK_LENGTH, -45, 45, 0.0, Material.ASPHALT))
    marks = []
    free_bays: list[tuple[float, int]] = []  # x and side of those along the ego vehicle's aisle
    pitch = 2.0 * w + 10.4
    for aisle in (-1, 0, 1):
        for s in (-1, 1):
            centre = aisle * pitch + s * (w + 2.6)
            for x in np.arange(0.0, BLOCK_LENGTH - 5.0, 2.5):
                low, high = centre - 2.5, centre + 2.5
                marks.append(
                    rectangle(x - 0.05, x + 0.05, low, high, MARKING_HEIGHT, Material.MARKING)
                )
                if b.rng.random() < b.scenario.parking_occupancy and x < BLOCK_LENGTH - 7.6:
                    nose_in = b.rng.random() < 0.75
                    yaw = s * np.pi / 2 * (1 if nose_in else -1) + b.rng.normal(0, 0.02)
                    object_class = "van" if b.rng.random() < 0.06 else "car"
                    lateral = centre + float(b.rng.normal(0, 0.1))
                    if b.scenario.parked_frequencies:
                        b.add_parked(float(x) + 1.25, lateral, float(yaw), max_length=6.4)
                        continue
                    b.add_labelled(object_class, float(x) + 1.25, lateral, float(yaw))
                elif aisle == 0:
                    free_bays.append((float(x), s))
        for s in (-1, 1):
            centre = aisle * pitch + s * (w + 2.6)
            low, high = centre - 2.5, centre + 2.5
            b.add_scenery(
                "kerb", cuboid((36.2, low, -0.1), (39.0, high, KERB_HEIGHT), Material.KERB)
            )
            if b.rng.random() < b.scenario.tree_density:
                position = (37.6, centre, KERB_HEIGHT)
                b.add_scenery("vegetation", scenery.tree(int(b.rng.integers(8))).moved_to(position))
    b.add_scenery("marking", *marks)
    b.add_street_lamp(37.6, w + 4.4)
    b.add_street_lamp(37.6, -w - 4.4)
    if b.rng.random() < b.scenario.pedestrian_density:
        b.add_labelled(
            "pedestrian", float(b.rng.uniform(5, 30)), w - 0.7, float(b.rng.uniform(-3, 3))
        )
    for s in (-1, 1):
        house = scenery.building(BLOCK_LENGTH, 15.0, 2, s > 0, False)
        origin = (0.0, 36.0, 0.0) if s > 0 else (BLOCK_LENGTH, -36.0, 0.0)
        b.add_scenery("building", house.moved_to(origin, 0.0 if s > 0 else np.pi))
    for x, s in free_bays:
        if b.scenario.clutter_density > 0 and b.rng.random() < 0.6:
            b.clutter_positions.append(
                (x + 1.25, s * (w + 2.6 + float(b.rng.uniform(-1.5, 1.5))), 0.0, 2.2)
            )
        elif b.rng.random() < 0.7:
            b.add_low_obstacle(x + 0.15, s * (w + float(b.rng.uniform(-0.25, 0.2))), 2.2)
