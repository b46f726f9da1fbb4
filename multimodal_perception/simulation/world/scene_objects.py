"""Objects of the scene: a mesh with its semantic class, bounding box, track id and colours."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from multimodal_perception.simulation.world import fleet, people, scenery, vehicles
from multimodal_perception.simulation.world.materials import SEMANTIC_NAMES
from multimodal_perception.simulation.world.meshes import Mesh

Colour = tuple[float, float, float]
GREY: Colour = (0.5, 0.5, 0.5)


@dataclass(frozen=True)
class SceneObject:
    """A mesh with its annotations, in the frame of the scene or of its block.

    semantic: index into SEMANTIC_NAMES. track: track id, 0 for scenery. box: bounding box (7,) as x, y,
    z, length, width, height, yaw in the same frame, or None for scenery. velocity: x and y, m/s.
    paint_colour, clothing_colour: linear RGB, 0 to 1. engine_heat: 0 to 1, warmth of engine and wheels.
    pitch: of the bounding box, radians, positive upwards. reflection: LiDAR reflectivity of the paint
    relative to that of its colour, see lidar_returns.py. ground: z of the ground below the object.
    """

    mesh: Mesh
    semantic: int
    track: int = 0
    box: tuple[float, ...] | None = None
    velocity: tuple[float, float] = (0.0, 0.0)
    paint_colour: Colour = GREY
    clothing_colour: Colour = GREY
    engine_heat: float = 0.0
    pitch: float = 0.0
    reflection: float = 1.0
    ground: float = 0.0


def scenery_object(
    mesh: Mesh, name: str, paint_colour: Colour = GREY, clothing_colour: Colour = GREY
) -> SceneObject:
    """A static object without bounding box and track id; `name` is its class in SEMANTIC_NAMES."""
    return SceneObject(
        mesh, SEMANTIC_NAMES.index(name), paint_colour=paint_colour, clothing_colour=clothing_colour
    )


def object_mesh(object_class: str, variant: int, phase: int, walking: bool = True) -> Mesh:
    """The mesh of an object class, standing on z = 0.

    variant selects size and appearance, phase the gait or pedal phase of people; both are taken modulo
    the available number.
    """
    if object_class == "pedestrian":
        return people.pedestrian_mesh(
            variant % people.PEDESTRIAN_VARIANTS, phase % people.GAIT_PHASES, walking
        )
    if object_class == "cyclist":
        return people.cyclist_mesh(variant % 4, phase % people.GAIT_PHASES)
    if object_class == "forklift":
        return scenery.forklift()
    if object_class == "cone":
        return scenery.cone()
    if object_class == "barrier":
        return scenery.barrier()
    if object_class in fleet.KIND_CLASSES:
        return fleet.fleet_mesh(object_class, variant)
    return vehicles.vehicle_mesh(object_class, variant)


def labelled_object(
    object_class: str,
    mesh: Mesh,
    xyz: Sequence[float],
    yaw: float,
    track: int,
    velocity: tuple[float, float] = (0.0, 0.0),
    paint_colour: Colour = GREY,
    clothing_colour: Colour = GREY,
    engine_heat: float = 0.0,
) -> SceneObject:
    """An object with a bounding box that encloses its mesh, so that all its LiDAR points are inside.

    object_class: as for object_mesh. xyz, yaw: position of the mesh's origin in metres and heading in
    radians.
    """
    low, high = mesh.bounds()
    centre, size = (low + high) / 2, high - low
    c, s = np.cos(yaw), np.sin(yaw)
    x = xyz[0] + c * centre[0] - s * centre[1]
    y = xyz[1] + s * centre[0] + c * centre[1]
    box = (x, y, xyz[2] + centre[2], *size, yaw)
    name = fleet.KIND_CLASSES.get(object_class, object_class)
    # The package has no class for forklifts.
    name = name if name in SEMANTIC_NAMES else "unknown"
    return SceneObject(
        mesh.moved_to(xyz, yaw),
        SEMANTIC_NAMES.index(name),
        track,
        tuple(float(v) for v in box),
        velocity,
        paint_colour,
        clothing_colour,
        engine_heat,
    )
