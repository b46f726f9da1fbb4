"""Static part of the world, generated in blocks of 40 m: roads, buildings, parked vehicles, racks."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from multimodal_perception.simulation.world.block_builder import (
    BLOCK_LENGTH,
    KERB_HEIGHT,
    BlockBuilder,
)
from multimodal_perception.simulation.world.clutter import sample_clutter
from multimodal_perception.simulation.world.furniture import (
    FURNITURE_TYPES,
    VARIANTS,
    furniture_mesh,
    sample_furniture_type,
)
from multimodal_perception.simulation.world.highway_block import build_highway
from multimodal_perception.simulation.world.parking_block import build_parking_lot
from multimodal_perception.simulation.world.scenarios import Scenario, sample_paint_colour
from multimodal_perception.simulation.world.scene_objects import scenery_object
from multimodal_perception.simulation.world.street_blocks import (
    CROSSING_HALF_WIDTH,
    build_intersection,
    build_street,
)
from multimodal_perception.simulation.world.street_life import add_street_life
from multimodal_perception.simulation.world.warehouse_block import build_warehouse

# In the environment "intersection", every INTERSECTION_PERIOD-th block is an intersection.
INTERSECTION_PERIOD = 3


def build_block(scenario: Scenario, seed: int, number: int) -> BlockBuilder:
    """Generate the objects of one block; equal arguments give equal objects."""
    rng = np.random.default_rng((seed, 2, number + 1_000_000))
    builder = BlockBuilder(scenario, number, rng)
    is_intersection = number % INTERSECTION_PERIOD == 1
    builders: dict[str, Callable[[BlockBuilder], None]] = {
        "street": build_street,
        "intersection": build_intersection if is_intersection else build_street,
        "highway": build_highway,
        "parking": build_parking_lot,
        "warehouse": build_warehouse,
    }
    builders[scenario.environment](builder)
    if scenario.furniture_density > 0 and scenario.environment in ("street", "intersection"):
        # A separate random generator, so that the other objects do not depend on the furniture.
        builder.rng = np.random.default_rng((seed, 3, number + 1_000_000))
        _add_furniture(builder, scenario.environment == "intersection" and is_intersection)
    if scenario.street_life > 0 and scenario.environment in ("street", "intersection"):
        builder.rng = np.random.default_rng((seed, 5, number + 1_000_000))
        if not (is_intersection and scenario.environment == "intersection"):
            add_street_life(builder)
    if scenario.clutter_density > 0:
        builder.rng = np.random.default_rng((seed, 4, number + 1_000_000))
        _add_clutter(builder)
    return builder


def _add_clutter(b: BlockBuilder) -> None:
    """Add clutter at the free positions, and narrow pieces on an island at the centre of a street."""
    density = b.scenario.clutter_density
    for x, y, z, max_extent in b.clutter_positions:
        if b.rng.random() < density:
            mesh, semantic_class = sample_clutter(b.rng, max_extent)
            yaw = float(b.rng.uniform(-np.pi, np.pi))
            b.add_painted_scenery(semantic_class, mesh.moved_to((x, y, z), yaw))
    if b.scenario.environment in ("street", "intersection") and b.rng.random() < density:
        for x in b.rng.uniform(1.0, 11.0, int(b.rng.integers(1, 5))):
            mesh, semantic_class = sample_clutter(b.rng, 0.7)
            paint_colour = sample_paint_colour(b.rng)
            island_object = mesh.moved_to((x, 0.0, 0.0))
            b.objects.append(scenery_object(island_object, semantic_class, paint_colour))


def _add_furniture(b: BlockBuilder, is_intersection: bool) -> None:
    """Add street furniture along the kerb and the buildings, and pedestrians between it."""
    w, scenario = b.scenario.half_width, b.scenario
    for s in (-1, 1):
        lamp_x = 8.0 if s > 0 else 28.0
        for offset in (0.45, 2.75):
            for x in np.arange(1.3, BLOCK_LENGTH, 2.4) + b.rng.uniform(-0.5, 0.5, 17):
                # Trees have a spacing of 8 m.
                near_tree = offset < 1.0 and abs((x - 1.0) % 8.0 - 4.0) < 0.9
                near_lamp = offset < 1.0 and abs(x - lamp_x) < 0.8
                on_crossing = (
                    is_intersection and abs(x - BLOCK_LENGTH / 2) < CROSSING_HALF_WIDTH + 4.5
                )
                if near_tree or near_lamp or on_crossing:
                    continue
                y = s * (w + offset + float(b.rng.uniform(-0.1, 0.1)))
                yaw = float(b.rng.uniform(-np.pi, np.pi))
                draw = b.rng.random()
                if draw < scenario.furniture_density:
                    furniture_type = sample_furniture_type(b.rng)
                    # Long pieces are parallel to the street.
                    yaw = float(b.rng.integers(2)) * np.pi + 0.05 * yaw
                    mesh = furniture_mesh(furniture_type, int(b.rng.integers(VARIANTS)))
                    semantic_class = FURNITURE_TYPES[furniture_type][1]
                    if scenario.clutter_density > 0 and b.rng.random() < scenario.clutter_density:
                        mesh, semantic_class = sample_clutter(b.rng, 1.2)
                    b.add_painted_scenery(
                        semantic_class, mesh.moved_to((float(x), y, KERB_HEIGHT), yaw)
                    )
                elif draw < scenario.furniture_density + 0.12 * scenario.pedestrian_density:
                    b.add_labelled("pedestrian", float(x), y, yaw, KERB_HEIGHT)
