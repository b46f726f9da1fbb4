"""LiDAR returns of the profile realistic: glass, glossy paint, uneven surfaces, blooming and dust.

The basic LiDAR equation (lidar.py) gives a return from every surface within the range of the sensor.
Recordings differ: four of five pulses on vehicle windows give none, and some of the others come from
inside the vehicle; dark glossy paint reflects pulses away unless they hit it perpendicularly, so that
only plates, lamps, tyres and bumpers of such a car are measured; the reflectivity varies within a
surface; retro-reflectors appear too wide; and asphalt fades at grazing angles.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from multimodal_perception.kernels import njit
from multimodal_perception.simulation.sensors.shading import face_normal, hash_noise
from multimodal_perception.simulation.world.materials import (
    MATERIAL_TABLE,
    Material,
    MaterialProperty,
    Texture,
)
from multimodal_perception.simulation.world.scene import RayHits, Scene

REFLECTIVITY, TRANSMISSION = int(MaterialProperty.REFLECTIVITY), int(MaterialProperty.TRANSMISSION)
RETROREFLECTION, TEXTURE = int(MaterialProperty.RETROREFLECTION), int(MaterialProperty.TEXTURE)
PAINT, CLOTH, ASPHALT = int(Texture.PAINT), int(Texture.CLOTH), int(Texture.ASPHALT)
GLASS = int(Material.GLASS)
# Objects with a smaller `reflection` have glossy paint, and it is then their diffuse reflectivity.
# GLOSSY_HIGHLIGHT: reflectivity at perpendicular incidence.
GLOSSY_LIMIT, GLOSSY_HIGHLIGHT = 0.04, 0.3
# Fraction of the pulses on vehicle windows that give a return, in KITTI's and PandaSet's sweeps, and the
# maximum depth behind the window from which it comes, metres.
GLASS_RETURN_RATIO, INTERIOR_DEPTH = 0.2, 1.0
# Standard deviation of the logarithm of the reflectivity, between patches of this size in metres.
PATCH_SPREAD, PATCH_SIZE = 0.55, 0.2
# Echoes of retro-reflectors, relative to a white wall, from which neighbouring pulses give one as well.
BLOOMING_INTENSITY, BLOOMING_RATIO = 2.0, 0.3
DUST_RATIO = 1.5e-4  # fraction of the pulses with a return from dust or insects


def realistic_returns(
    scene: Scene,
    rays: NDArray[np.float32],
    hits: RayHits,
    extinction: float,
    detection_range: float,
    rings: int,
    rng: np.random.Generator,
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Power and intensity (N,) of each return, as lidar.py defines them.

    rays: (N, 6), ring by ring. hits: changed in place for returns from inside of vehicles and from
    retro-reflectors beside the pulse. extinction: of the air, 1/m. detection_range: of the sensor,
    metres.
    """
    power, intensity = np.empty(len(rays), np.float32), np.empty(len(rays), np.float32)
    triangles = scene.triangles
    _surface_returns(
        rays, hits.distance, hits.triangle, triangles.corners, triangles.materials,
        triangles.object_index, scene.objects, scene.reflection, MATERIAL_TABLE, extinction,
        detection_range, power, intensity,
    )  # fmt: skip
    glass = np.flatnonzero(
        (hits.triangle >= 0) & (triangles.materials[np.maximum(hits.triangle, 0)] == GLASS)
    )
    draws = rng.random((2, len(glass)), np.float32)
    returned = draws[0] < GLASS_RETURN_RATIO
    interior_power = 1.6 / (1.0 + 0.02 * hits.distance[glass])
    power[glass] = np.where(returned, np.maximum(power[glass], interior_power), 0.08 * power[glass])
    hits.distance[glass] += np.where(returned, draws[1] ** 2 * INTERIOR_DEPTH, 0.0).astype(
        np.float32
    )
    _add_blooming(hits, power, intensity, rings, rng)
    return power, intensity


def _add_blooming(
    hits: RayHits,
    power: NDArray[np.float32],
    intensity: NDArray[np.float32],
    rings: int,
    rng: np.random.Generator,
) -> None:
    """Copy the strong returns of retro-reflectors to neighbouring pulses that end behind them."""
    strong = np.flatnonzero((intensity > BLOOMING_INTENSITY) & (power > 2.0))
    columns = len(power) // rings
    for step in (-2, -1, 1, 2):
        chosen = strong[rng.random(len(strong)) < BLOOMING_RATIO / abs(step)]
        target = chosen - chosen % columns + (chosen + step) % columns
        behind = hits.distance[target] > hits.distance[chosen] + 0.3
        chosen, target = chosen[behind], target[behind]
        hits.distance[target] = hits.distance[chosen]
        hits.triangle[target] = hits.triangle[chosen]
        power[target] = power[chosen]
        intensity[target] = 0.3 * intensity[chosen]


def dust_ranges(count: int, rng: np.random.Generator) -> tuple[NDArray, NDArray]:
    """Indices (M,) of the pulses with a return from dust, of `count`, and its distances (M,)."""
    index = np.flatnonzero(rng.random(count, np.float32) < DUST_RATIO)
    return index, (0.8 + rng.exponential(3.0, len(index))).astype(np.float32)


@njit(nogil=True)
def _surface_returns(  # type: ignore[no-untyped-def]
    rays, distance, triangle, corners, materials, object_index, objects, reflection, table, extinction,
    detection_range, power, intensity,
):  # fmt: skip
    """Power and intensity of each return by the LiDAR equation, written to power and intensity (N,).

    reflection: of each object, see SceneObject. Reflectivity varies between patches of the surface.
    """
    normal = np.zeros(3)
    scale = detection_range * detection_range / 0.1
    for i in range(len(rays)):
        j = triangle[i]
        if j < 0:
            power[i], intensity[i] = 0.0, 0.0
            continue
        face_normal(corners[j], normal)
        cosine = abs(normal[0] * rays[i, 3] + normal[1] * rays[i, 4] + normal[2] * rays[i, 5])
        row = table[materials[j]]
        reflectivity = row[REFLECTIVITY]
        transmission = row[TRANSMISSION]
        colours = objects[object_index[j]]
        gloss = reflection[object_index[j]]
        texture = int(row[TEXTURE])
        angular = 0.3 + 0.7 * cosine if transmission < 0.04 else cosine
        if texture == PAINT:  # dark paint is darker at 905 nm too
            reflectivity = 0.06 + 0.5 * (colours[0] + colours[1] + colours[2]) / 3.0
            if gloss < GLOSSY_LIMIT:  # a mirror, except close to the normal
                reflectivity = gloss + GLOSSY_HIGHLIGHT * cosine**400
            else:
                reflectivity *= gloss
                angular = cosine * (0.5 + 0.5 * cosine)
        elif texture == CLOTH:  # dyes absorb less at 905 nm than visible light
            reflectivity = 0.2 + 0.6 * (colours[3] + colours[4] + colours[5]) / 3.0
        elif texture == ASPHALT:
            angular = 0.15 + 0.85 * cosine
        r = distance[i]
        x, y, z = (
            rays[i, 0] + r * rays[i, 3],
            rays[i, 1] + r * rays[i, 4],
            rays[i, 2] + r * rays[i, 5],
        )
        # Twelve uniform numbers would be normal; two are close enough, and patches differ per object.
        u = np.floor(x / PATCH_SIZE), np.floor(y / PATCH_SIZE), np.floor(z / PATCH_SIZE)
        noise = hash_noise(u[0], u[1], u[2]) + hash_noise(u[1] + 0.5, u[2], u[0] + 0.5) - 1.0
        reflectivity *= np.exp(PATCH_SPREAD * 2.45 * noise)
        backscatter = reflectivity * (1.0 - transmission) * angular
        # Retro-reflectors work up to an angle of incidence of about 60 degrees.
        retro_gain = 1.0 + row[RETROREFLECTION] * max(0.0, cosine - 0.4)
        backscatter *= retro_gain
        attenuation = np.exp(-2.0 * extinction * r)
        power[i] = np.sqrt(backscatter * attenuation * scale) / max(r, 0.1)
        intensity[i] = reflectivity * angular * retro_gain * attenuation
