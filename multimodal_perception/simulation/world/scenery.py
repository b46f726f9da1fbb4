"""Meshes of static scenery: trees, buildings, poles, signs, barriers, fences and warehouse racks.

Sizes: street lamps 6 to 10 m (EN 40-2), guard rails 0.75 m (EN 1317), cones 0.75 m (EN 13422), kerbs
0.12 m, storeys 3 m, pallet racks 2.7 m wide and 1.1 m deep (EN 15620).
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from multimodal_perception.simulation.world.materials import Material
from multimodal_perception.simulation.world.meshes import (
    Mesh,
    cuboid,
    ellipsoid,
    flat_shaded,
    jittered,
    merge,
    quad,
    rectangle,
    tube,
)

STOREY = 3.0


@lru_cache(maxsize=16)
def tree(variant: int) -> Mesh:
    """A broad-leaved tree of 5 to 9 m: a trunk and a crown of seven irregular ellipsoids."""
    rng = np.random.default_rng((77, variant))
    height = rng.uniform(5.0, 9.0)
    crown = rng.uniform(1.5, 2.3)
    trunk = 0.38 * height
    parts = [tube((0, 0, 0), (0, 0, trunk + 0.6), 0.15, Material.BARK, 0.10)]
    for k in range(7):
        angle = 2 * np.pi * k / 6
        radial_offset = 0.0 if k == 6 else 0.55 * crown
        height_offset = (0.72 if k == 6 else rng.uniform(0.32, 0.5)) * (height - trunk)
        offset = np.array([radial_offset * np.cos(angle), radial_offset * np.sin(angle)])
        centre = np.array([*offset, trunk + height_offset])
        radii = crown * rng.uniform(0.55, 0.7, 3)
        centre[2] = min(centre[2], height - radii[2])
        leaves = ellipsoid(centre, radii, Material.LEAVES, 5, 7)
        parts.append(jittered(leaves, rng, 0.10 * crown))
    return merge(parts)


@lru_cache(maxsize=16)
def bush(variant: int) -> Mesh:
    """A shrub about 1 m high: three irregular ellipsoids."""
    rng = np.random.default_rng((78, variant))
    parts = []
    for _ in range(3):
        centre = rng.uniform(-0.35, 0.35, 2)
        leaves = ellipsoid((*centre, 0.5), rng.uniform(0.4, 0.6, 3), Material.LEAVES, 5, 8)
        parts.append(jittered(leaves, rng, 0.05))
    return merge(parts)


def building(length: float, depth: float, storeys: int, brick: bool, gable: bool) -> Mesh:
    """A house between x = 0 and length and y = 0 (street front) and depth.

    brick: brick walls with modelled windows; else a facade whose windows are part of the texture.
    gable: gable roof; else a flat roof.
    """
    height = STOREY * storeys + 0.6
    wall = Material.BRICK if brick else Material.FACADE
    parts = [cuboid((0, 0, 0), (length, depth, height), wall, Material.ROOF)]
    if brick:
        for k in range(storeys):
            for x in np.arange(1.2, length - 1.6, 2.4):
                z = 0.9 + STOREY * k
                parts.append(_pane(x, x + 1.2, z, z + 1.5))
    door = 0.45 * length
    parts.append(
        quad(
            [
                [door, -0.03, 0],
                [door + 1.1, -0.03, 0],
                [door + 1.1, -0.03, 2.2],
                [door, -0.03, 2.2],
            ],
            Material.WOOD,
        )
    )
    # Vertical rays that start below the roof (see truth.CLEARANCE_HEIGHT) hit this floor, so the
    # ground-truth grid marks the inside of a house as building.
    parts.append(rectangle(0, length, 0, depth, 2.2, wall))
    if gable:
        top = height + 0.35 * depth
        ridge = np.array([[-0.3, depth / 2, top], [length + 0.3, depth / 2, top]])
        for y in (-0.4, depth + 0.4):
            eave = np.array([[-0.3, y, height - 0.2], [length + 0.3, y, height - 0.2]])
            parts.append(quad([eave[0], eave[1], ridge[1], ridge[0]], Material.ROOF))
        for x in (0.0, length):
            gable_wall = [[[x, 0, height], [x, depth, height], [x, depth / 2, top]]]
            parts.append(flat_shaded(gable_wall, wall))
    else:
        for y in (-0.12, depth):
            parts.append(
                cuboid((0, y, height), (length, y + 0.12, height + 0.5), Material.CONCRETE)
            )
    return merge(parts)


def _pane(x0: float, x1: float, z0: float, z1: float) -> Mesh:
    """A window with its frame, in front of a wall at y = 0."""
    frame = quad(
        [
            [x0 - 0.1, -0.03, z0 - 0.1],
            [x1 + 0.1, -0.03, z0 - 0.1],
            [x1 + 0.1, -0.03, z1 + 0.1],
            [x0 - 0.1, -0.03, z1 + 0.1],
        ],
        Material.KERB,
    )
    glass = quad(
        [[x0, -0.04, z0], [x1, -0.04, z0], [x1, -0.04, z1], [x0, -0.04, z1]], Material.GLASS
    )
    return merge([frame, glass])


@lru_cache(maxsize=16)
def street_lamp(height: float = 8.0) -> Mesh:
    """A street lamp: a mast with an arm towards -y; the lamp is 1.65 m from the mast."""
    return merge(
        [
            tube((0, 0, 0), (0, 0, 0.9), 0.10, Material.STEEL),
            tube((0, 0, 0.9), (0, 0, height), 0.07, Material.STEEL, 0.05),
            tube((0, 0, height - 0.05), (0, -1.5, height + 0.15), 0.04, Material.STEEL, sides=6),
            cuboid((-0.15, -2.0, height + 0.10), (0.15, -1.3, height + 0.22), Material.STREET_LAMP),
        ]
    )


@lru_cache(maxsize=16)
def traffic_sign(variant: int) -> Mesh:
    """A traffic sign 0.76 m across facing -x on a 2.8 m post: round if `variant` is odd, else square."""
    post = tube((0, 0, 0), (0, 0, 2.8), 0.035, Material.STEEL, sides=6)
    angle = np.arange(12) * 2 * np.pi / 12 if variant % 2 else np.arange(4) * np.pi / 2 + np.pi / 4
    y, z = 0.38 * np.cos(angle), 2.5 + 0.38 * np.sin(angle)
    ring = np.stack([np.full(len(angle), -0.05), y, z], axis=1)
    fan = [[(-0.05, 0, 2.5), p, q] for p, q in zip(ring, np.roll(ring, -1, 0), strict=True)]
    return merge([post, flat_shaded(fan, Material.SIGN if variant % 2 else Material.REFLECTOR)])


@lru_cache(maxsize=16)
def traffic_light() -> Mesh:
    """A traffic light with three lamps facing -x, on a 3.4 m post."""
    parts = [
        tube((0, 0, 0), (0, 0, 3.4), 0.06, Material.STEEL),
        cuboid((-0.22, -0.16, 2.45), (-0.02, 0.16, 3.40), Material.TRIM),
    ]
    for z, material in ((3.22, Material.TRIM), (2.92, Material.TRIM), (2.62, Material.GRASS)):
        parts.append(ellipsoid((-0.22, 0, z), (0.04, 0.10, 0.10), material, 4, 8))
    return merge(parts)


@lru_cache(maxsize=16)
def cone() -> Mesh:
    """An orange traffic cone of 0.75 m with reflective white bands."""
    bands = ((0.04, 0.30), (0.30, 0.42), (0.42, 0.52), (0.52, 0.62), (0.62, 0.75))
    parts = [cuboid((-0.2, -0.2, 0), (0.2, 0.2, 0.04), Material.CONE)]
    for k, (z0, z1) in enumerate(bands):
        material = Material.REFLECTOR if k % 2 else Material.CONE
        radii = [0.17 * (1 - z / 0.80) + 0.01 for z in (z0, z1)]
        parts.append(tube((0, 0, z0), (0, 0, z1), radii[0], material, radii[1], 12))
    return merge(parts)


@lru_cache(maxsize=16)
def barrier() -> Mesh:
    """A concrete barrier element of 2 m (New Jersey profile), along x."""
    profile = np.array([(0.30, 0), (0.30, 0.08), (0.14, 0.33), (0.08, 0.81)])
    ring = np.concatenate([profile, profile[::-1] * (-1, 1)])
    rings = np.stack([np.column_stack([np.full(8, x), ring]) for x in (-1.0, 1.0)])
    following = np.roll(rings, -1, axis=1)
    a, b, c, d = rings[0], following[0], following[1], rings[1]
    skin = np.concatenate([np.stack([a, b, c], 1), np.stack([a, c, d], 1)])
    end_faces = [[r[0], r[k], r[k + 1]] for r in rings for k in range(1, 7)]
    return merge([flat_shaded(skin, Material.CONCRETE), flat_shaded(end_faces, Material.CONCRETE)])


@lru_cache(maxsize=16)
def guard_rail(length: float) -> Mesh:
    """A steel guard rail with posts, along x from 0."""
    parts = [cuboid((0, -0.04, 0.45), (length, 0.04, 0.75), Material.STEEL)]
    for x in np.arange(1.0, length, 4.0):
        parts.append(cuboid((x - 0.05, 0.04, 0), (x + 0.05, 0.12, 0.7), Material.STEEL))
    return merge(parts)


def low_wall(length: float, height: float) -> Mesh:
    """A low concrete wall along x from 0; at short range a roof LiDAR's beams pass above it."""
    return cuboid((0, -0.1, 0), (length, 0.1, height), Material.CONCRETE)


def kerb_strip(length: float) -> Mesh:
    """A kerb of 0.12 m height and 0.2 m width, along x from 0."""
    return cuboid((0, -0.1, -0.1), (length, 0.1, 0.12), Material.KERB)


@lru_cache(maxsize=16)
def bollard(variant: int) -> Mesh:
    """A bollard of 0.6 to 1.1 m: steel if `variant` is odd, else painted as in front of racks."""
    height = 0.6 + 0.1 * (variant % 6)
    material = Material.STEEL if variant % 2 else Material.CONE
    return tube((0, 0, 0), (0, 0, height), 0.08, material, sides=10)


def glass_screen(length: float, height: float = 2.0) -> Mesh:
    """Glass panes between steel posts, as in trolley shelters and warehouse offices, along x from 0."""
    parts = [cuboid((0, -0.01, 0.08), (length, 0.01, height), Material.GLASS)]
    for x in np.linspace(0.0, length, max(2, round(length / 1.5) + 1)):
        parts.append(cuboid((x - 0.03, -0.03, 0), (x + 0.03, 0.03, height), Material.STEEL))
    return merge(parts)


def guard_beam(length: float) -> Mesh:
    """A steel beam of 0.4 m height on short posts that protects a rack (EN 15512), along x from 0."""
    parts = [cuboid((0, -0.05, 0.25), (length, 0.05, 0.4), Material.CONE)]
    for x in np.linspace(0.1, length - 0.1, 3):
        parts.append(cuboid((x - 0.05, -0.04, 0), (x + 0.05, 0.04, 0.3), Material.STEEL))
    return merge(parts)


def fence(length: float, height: float = 1.2) -> Mesh:
    """A wooden fence of posts, two rails and slats, along x from 0."""
    parts = []
    for x in np.arange(0.0, length + 0.01, 2.5):
        parts.append(cuboid((x - 0.05, -0.05, 0), (x + 0.05, 0.05, height), Material.WOOD))
    for z in (0.25, height - 0.25):
        parts.append(cuboid((0, -0.02, z - 0.04), (length, 0.02, z + 0.04), Material.WOOD))
    for x in np.arange(0.12, length, 0.24):
        parts.append(
            quad(
                [[x, -0.03, 0.1], [x + 0.12, -0.03, 0.1], [x + 0.12, -0.03, height - 0.05],
                 [x, -0.03, height - 0.05]],
                Material.WOOD,
            )
        )  # fmt: skip
    return merge(parts)


@lru_cache(maxsize=16)
def pallet_rack(variant: int, levels: int = 3) -> Mesh:
    """One loaded bay of a pallet rack, 2.7 m along x from 0 and 1.1 m deep along y from 0."""
    rng = np.random.default_rng((79, variant))
    step, top = 1.6, 1.6 * levels + 0.6
    parts = []
    for x in (0.0, 2.6):
        for y in (0.0, 1.0):
            parts.append(cuboid((x, y, 0), (x + 0.1, y + 0.1, top), Material.DARK_PAINT))
    for level in range(levels + 1):
        z = step * level
        if level:
            for y in (0.0, 1.0):
                parts.append(cuboid((0.1, y, z - 0.12), (2.6, y + 0.08, z), Material.CONE))
        for x in (0.2, 1.45):
            if rng.random() < 0.15:
                continue
            parts.append(cuboid((x, 0.05, z), (x + 1.1, 1.05, z + 0.14), Material.WOOD))
            load = rng.uniform(0.5, 1.2)
            inset = rng.uniform(0.02, 0.15)
            material = Material.CARDBOARD if rng.random() < 0.75 else Material.SHEET
            parts.append(
                cuboid(
                    (x + inset, 0.05 + inset, z + 0.14), (x + 1.1 - inset, 1.05 - inset, z + load),
                    material,
                )
            )  # fmt: skip
    return merge(parts)


@lru_cache(maxsize=16)
def forklift() -> Mesh:
    """A counterbalance forklift, 2.4 m long with its forks and 2.1 m high."""
    parts = [
        cuboid((-1.2, -0.5, 0.25), (0.1, 0.5, 1.0), Material.PAINT),
        cuboid((-1.25, -0.5, 0.2), (-0.9, 0.5, 1.15), Material.TRIM),
        cuboid((-0.7, -0.25, 1.0), (-0.3, 0.25, 1.15), Material.TRIM),
        cuboid((-0.75, -0.25, 1.1), (-0.65, 0.25, 1.6), Material.TRIM),
        cuboid((-1.0, -0.5, 2.02), (0.1, 0.5, 2.1), Material.TRIM),
    ]
    for s in (-1, 1):
        for x in (-0.95, 0.05):
            parts.append(tube((x, s * 0.46, 1.0), (x, s * 0.46, 2.05), 0.035, Material.TRIM))
        parts.append(
            cuboid((0.12, s * 0.3 - 0.05, 0.1), (0.25, s * 0.3 + 0.05, 2.0), Material.STEEL)
        )
        parts.append(
            cuboid((0.25, s * 0.3 - 0.06, 0.1), (1.25, s * 0.3 + 0.06, 0.16), Material.STEEL)
        )
        for x, r in ((-0.85, 0.24), (0.0, 0.3)):
            parts.append(tube((x, s * 0.32, r), (x, s * 0.52, r), r, Material.TYRE, sides=14))
    return merge(parts)
