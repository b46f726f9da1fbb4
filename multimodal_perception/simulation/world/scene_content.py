"""The objects around the ego vehicle at one time: moving objects, their place on the road, ground."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from multimodal_perception.simulation.world.materials import SEMANTIC_NAMES, Material
from multimodal_perception.simulation.world.meshes import merge, rectangle
from multimodal_perception.simulation.world.people import GAIT_CYCLE_LENGTH, GAIT_PHASES
from multimodal_perception.simulation.world.road import Road, bend_mesh, place_rigid
from multimodal_perception.simulation.world.scenarios import Scenario
from multimodal_perception.simulation.world.scene_objects import (
    SceneObject,
    labelled_object,
    object_mesh,
    scenery_object,
)
from multimodal_perception.simulation.world.traffic import moving_bodies

# Moving people beyond this distance are left out: they cover about one pixel, and ground-truth boxes end
# at 100 m.
SMALL_OBJECT_RANGE = 105.0
GROUND_EXTENT = 1500.0  # size of the ground beyond the blocks, metres
# Fraction of the vehicles with dark, glossy paint, from which LiDARs get returns only at perpendicular
# incidence, and the range of its diffuse reflectivity.
GLOSSY_FRACTION, GLOSSY_REFLECTION = 0.12, (2e-5, 5e-3)


def moving_scene_objects(
    scenario: Scenario,
    seed: int,
    seconds: float,
    extent: tuple[float, float],
    start: float,
    road: Road | None,
    origin: NDArray[np.float64],
) -> list[SceneObject]:
    """The moving objects near the ego vehicle at a time, in the scene's frame.

    extent: lowest and highest x of the strip, metres. start: x of the scene's origin in the strip.
    origin: (3,) the scene's origin in the odom frame.
    """
    ego_x = float(scenario.ego.pose_2d(seconds)[0])
    objects = []
    for body in moving_bodies(scenario, seed, seconds, *extent):
        is_small = body.kind in ("pedestrian", "cyclist", "motorcyclist")
        if is_small and abs(body.x - ego_x) > SMALL_OBJECT_RANGE:
            continue
        phase = math.floor(abs(body.travelled) / GAIT_CYCLE_LENGTH * GAIT_PHASES) % GAIT_PHASES
        scene_object = labelled_object(
            body.kind,
            object_mesh(body.kind, body.variant, phase),
            (body.x - start, body.y, body.z),
            body.yaw,
            body.track,
            body.velocity,
            body.paint_colour,
            body.clothing_colour,
            engine_heat=0.0 if body.is_towed else 1.0,
        )
        if scenario.street_life > 0.0:
            scene_object = with_random_reflection(scene_object, seed)
        if road is not None:
            scene_object = place_rigid(scene_object, road, start, origin)
        objects.append(scene_object)
    return objects


def with_random_reflection(scene_object: SceneObject, seed: int) -> SceneObject:
    """The object with a random LiDAR reflectivity of its paint, which its track id determines."""
    if scene_object.box is None:
        return scene_object
    rng = np.random.default_rng((seed, 8, scene_object.track))
    reflection = float(np.clip(np.exp(rng.normal(-0.35, 0.45)), 0.1, 4.0))
    if rng.random() < GLOSSY_FRACTION:
        reflection = float(np.exp(rng.uniform(*np.log(GLOSSY_REFLECTION))))
    return replace(scene_object, reflection=reflection)


def on_road(
    scene_object: SceneObject, road: Road, start: float, origin: NDArray[np.float64]
) -> SceneObject:
    """A static object of the strip on the road: rigid with a bounding box, bent without one."""
    if scene_object.box is not None:
        return place_rigid(scene_object, road, start, origin)
    name = SEMANTIC_NAMES[scene_object.semantic]
    return replace(scene_object, mesh=bend_mesh(scene_object.mesh, name, road, start, origin))


def shifted_object(scene_object: SceneObject, shift: Sequence[float]) -> SceneObject:
    """The object with its bounding box translated by (x, y, z)."""
    box = scene_object.box
    if box is None:
        return scene_object
    return replace(
        scene_object, box=(box[0] + shift[0], box[1] + shift[1], box[2] + shift[2], *box[3:])
    )


def ground_beyond(scenario: Scenario, low: float, high: float) -> list[SceneObject]:
    """Road and ground in front of, behind and beside the blocks, up to GROUND_EXTENT."""
    if scenario.indoor:
        return []
    w = scenario.half_width
    road, terrain = [], [rectangle(low, high, -GROUND_EXTENT, -44.0, -0.05, Material.GRASS)]
    terrain.append(rectangle(low, high, 44.0, GROUND_EXTENT, -0.05, Material.GRASS))
    for x0, x1 in ((low - GROUND_EXTENT, low), (high, high + GROUND_EXTENT)):
        road.append(rectangle(x0, x1, -w, w, 0.0, Material.ASPHALT))
        terrain.append(rectangle(x0, x1, -GROUND_EXTENT, -w, -0.03, Material.GRASS))
        terrain.append(rectangle(x0, x1, w, GROUND_EXTENT, -0.03, Material.GRASS))
    return [scenery_object(merge(road), "road"), scenery_object(merge(terrain), "terrain")]
