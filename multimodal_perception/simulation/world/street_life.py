"""Objects of the profile realistic in streets: car parks, road works, people between vehicles, kerbs."""

from __future__ import annotations

import numpy as np

from multimodal_perception.simulation.world import scenery
from multimodal_perception.simulation.world.block_builder import (
    BLOCK_LENGTH,
    KERB_HEIGHT,
    BlockBuilder,
)
from multimodal_perception.simulation.world.clutter import clutter_mesh
from multimodal_perception.simulation.world.materials import Material
from multimodal_perception.simulation.world.meshes import cuboid, rectangle, tube
from multimodal_perception.simulation.world.people import bicycle_mesh

# Types of clutter that stand on the pavement near the kerb.
PAVEMENT_CLUTTER = ("box", "bins", "post", "bench", "bicycles", "beacon", "stone", "shrub", "board")


def add_street_life(b: BlockBuilder) -> None:
    """Add people between vehicles, road works, low obstacles and parked bicycles along both kerbs."""
    w, density = b.scenario.half_width, b.scenario.street_life
    for s in (-1, 1):
        for x in b.rng.uniform(1.0, BLOCK_LENGTH - 1.0, int(b.rng.poisson(0.8 * density))):
            # Someone beside or between parked vehicles, who loads, gets in or is about to cross.
            y = s * (w - float(b.rng.uniform(0.2, 2.6)))
            b.add_labelled("pedestrian", float(x), y, float(b.rng.uniform(-np.pi, np.pi)))
        if b.rng.random() < 0.2 * density:
            _add_works(b, float(b.rng.uniform(6.0, 30.0)), s)
        for x in b.rng.uniform(1.0, BLOCK_LENGTH - 1.0, int(b.rng.poisson(3.0 * density))):
            kind = PAVEMENT_CLUTTER[int(b.rng.integers(len(PAVEMENT_CLUTTER)))]
            mesh = clutter_mesh(kind, int(b.rng.integers(60)))
            low, high = mesh.bounds()
            if (high - low)[:2].max() > 2.6:
                continue
            place = (float(x), s * (w + float(b.rng.uniform(0.4, 2.6))), KERB_HEIGHT)
            b.add_painted_scenery("furniture", mesh.moved_to(place, float(b.rng.uniform(-3, 3))))
        for x in b.rng.uniform(1.0, BLOCK_LENGTH - 1.0, int(b.rng.poisson(0.8 * density))):
            _add_low_object(b, float(x), s * (w - float(b.rng.uniform(0.1, 0.5))))
        if b.rng.random() < 0.2 * density:  # a group of people on the pavement
            x = float(b.rng.uniform(2.0, BLOCK_LENGTH - 2.0))
            for _ in range(int(b.rng.integers(2, 7))):
                dx, dy = b.rng.normal(0.0, 0.9), b.rng.uniform(0.5, 2.6)
                yaw = float(b.rng.uniform(-np.pi, np.pi))
                b.add_labelled("pedestrian", x + float(dx), s * (w + float(dy)), yaw, KERB_HEIGHT)


def _add_low_object(b: BlockBuilder, x: float, y: float) -> None:
    """Add something low at the edge of the carriageway: kerbs, planters, bollards, wheel stops."""
    kind = int(b.rng.integers(4))
    if kind == 0:
        length = float(b.rng.uniform(0.8, 2.5))
        b.add_scenery("kerb", scenery.kerb_strip(length).moved_to((x, y, 0)))
    elif kind == 1:
        half, height = float(b.rng.uniform(0.25, 0.6)), float(b.rng.uniform(0.3, 0.7))
        box = cuboid((x - half, y - half, 0), (x + half, y + half, height), Material.CONCRETE)
        b.add_scenery("furniture", box)
    elif kind == 2:
        for k in range(int(b.rng.integers(1, 5))):
            post = scenery.bollard(int(b.rng.integers(6)))
            b.add_scenery("pole", post.moved_to((x + 1.3 * k, y, 0)))
    else:
        stop = cuboid((x - 0.9, y - 0.08, 0), (x + 0.9, y + 0.08, 0.12), Material.CONCRETE)
        b.add_scenery("kerb", stop)


def _add_works(b: BlockBuilder, x: float, s: int) -> None:
    """Add road works on the parking strip: cones, barriers, beacons, a machine or a sign trailer."""
    w = b.scenario.half_width
    length = float(b.rng.uniform(4.0, 9.0))
    inner, outer = s * (w - 2.35), s * (w - 0.5)
    kind = ("jersey_barrier", "fence_barrier", "barrier")[int(b.rng.integers(3))]
    step = 3.2 if kind == "jersey_barrier" else 2.7
    for along in np.arange(x, x + length, step):
        if b.rng.random() < 0.8:
            b.add_labelled(kind, float(along), inner + float(b.rng.normal(0, 0.06)), 0.0)
    for k in range(int(b.rng.integers(3, 9))):
        fraction = k / 8.0
        y = outer + fraction * (inner - outer)
        b.add_labelled("cone", x - 6.0 + 0.8 * k, y + float(b.rng.normal(0, 0.08)), 0.0)
    draw = b.rng.random()
    if draw < 0.35:
        b.add_labelled("sign_trailer", x + 1.0, s * (w - 1.3), 0.0 if s < 0 else np.pi)
    elif draw < 0.6:
        heap = clutter_mesh("skip", int(b.rng.integers(60)))
        b.add_painted_scenery("furniture", heap.moved_to((x + 2.5, s * (w - 1.3), 0.0)))
    for _ in range(int(b.rng.integers(0, 3))):
        px, py = x + float(b.rng.uniform(0, length)), s * (w - float(b.rng.uniform(0.6, 1.9)))
        b.add_labelled("pedestrian", px, py, float(b.rng.uniform(-np.pi, np.pi)))


def add_car_park(b: BlockBuilder, s: int, x: float, length: float, front: float) -> None:
    """Add an open plot with one or two rows of parked vehicles at any angle to the street.

    s: side, the sign of y. x, length: extent of the plot along the street. front: distance of the plot
    from the centre of the street, metres.
    """
    depth = 22.0
    low, high = sorted((s * front, s * (front + depth)))
    b.add_scenery("road", rectangle(x, x + length, low, high, KERB_HEIGHT, Material.ASPHALT))
    angle = float(b.rng.choice([np.pi / 2, np.pi / 2, np.pi / 3, np.pi / 4, 0.0]))
    pitch = 2.7 / max(np.sin(angle), 0.42) if angle > 0.1 else 6.2
    occupancy = float(b.rng.uniform(0.3, 0.95))
    for row in (3.2, 14.5) if length > 8.0 else (3.2,):
        for along in np.arange(x + 1.6, x + length - 1.0, pitch):
            if b.rng.random() > occupancy:
                continue
            flip = np.pi if b.rng.random() < 0.4 else 0.0
            yaw = s * angle + flip + float(b.rng.normal(0, 0.03))
            y = s * (front + row + float(b.rng.normal(0, 0.15)))
            b.add_parked(float(along), y, yaw, KERB_HEIGHT, max_length=6.6)
    if b.rng.random() < 0.5:
        position = (
            x + float(b.rng.uniform(0.5, length - 0.5)),
            s * (front + float(b.rng.uniform(6, 11))),
        )
        b.add_labelled("pedestrian", *position, float(b.rng.uniform(-np.pi, np.pi)), KERB_HEIGHT)
    if b.rng.random() < 0.5:
        for y in (front + 0.1, front + depth):
            rail = tube((x, s * y, 0.6), (x + length, s * y, 0.6), 0.05, Material.STEEL)
            b.add_scenery("fence", rail)


def add_parked_two_wheelers(b: BlockBuilder, x: float, y: float) -> None:
    """Add a row of parked bicycles, which are scenery without a rider."""
    for k in range(int(b.rng.integers(1, 6))):
        bicycle = bicycle_mesh().moved_to((x + 0.6 * k, y, 0.0), np.pi / 2)
        b.add_painted_scenery("furniture", bicycle)
