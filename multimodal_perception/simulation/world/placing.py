"""What stands in one block of the world: things with their class, place and colours."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from multimodal_perception.simulation.world import people, scenery, vehicles
from multimodal_perception.simulation.world.materials import SEMANTIC_NAMES
from multimodal_perception.simulation.world.meshes import Mesh

Colour = tuple[float, float, float]
GREY: Colour = (0.5, 0.5, 0.5)


@dataclass(frozen=True)
class Thing:
    """A mesh with what is known of it, in the world or in its block.

    semantic: index into SEMANTIC_NAMES. track: its number, 0 for scenery. box: (7,) x y z length
    width height yaw in the same frame, or None for scenery. velocity: m/s. paint, cloth: linear RGB.
    running: 0 to 1, how warm its engine and wheels are.
    """

    mesh: Mesh
    semantic: int
    track: int = 0
    box: tuple[float, ...] | None = None
    velocity: tuple[float, float] = (0.0, 0.0)
    paint: Colour = GREY
    cloth: Colour = GREY
    running: float = 0.0


def scenic(mesh: Mesh, name: str, paint: Colour = GREY, cloth: Colour = GREY) -> Thing:
    """Scenery: no box, no track."""
    return Thing(mesh, SEMANTIC_NAMES.index(name), paint=paint, cloth=cloth)


def kind_mesh(kind: str, variant: int, phase: int, walks: bool = True) -> Mesh:
    """The mesh of a mover's kind, standing on z = 0."""
    if kind == "pedestrian":
        return people.pedestrian(variant % people.PEOPLE, phase % people.PHASES, walks)
    if kind == "cyclist":
        return people.cyclist(variant % 4, phase % people.PHASES)
    if kind == "forklift":
        return scenery.forklift()
    if kind == "cone":
        return scenery.cone()
    if kind == "barrier":
        return scenery.barrier()
    return vehicles.vehicle(kind, variant)


def labelled(
    kind: str,
    mesh: Mesh,
    xyz: Sequence[float],
    yaw: float,
    track: int,
    velocity: tuple[float, float] = (0.0, 0.0),
    paint: Colour = GREY,
    cloth: Colour = GREY,
    running: float = 0.0,
) -> Thing:
    """A thing with a box: that of its mesh, so all its points lie inside."""
    low, high = mesh.bounds()
    middle, size = (low + high) / 2, high - low
    c, s = np.cos(yaw), np.sin(yaw)
    x = xyz[0] + c * middle[0] - s * middle[1]
    y = xyz[1] + s * middle[0] + c * middle[1]
    box = (x, y, xyz[2] + middle[2], *size, yaw)
    # A forklift is none of the package's classes.
    name = kind if kind in SEMANTIC_NAMES else "unknown"
    return Thing(
        mesh.placed(xyz, yaw),
        SEMANTIC_NAMES.index(name),
        track,
        tuple(float(v) for v in box),
        velocity,
        paint,
        cloth,
        running,
    )
