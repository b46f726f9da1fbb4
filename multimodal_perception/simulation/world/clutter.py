"""Roadside clutter of widely varying shapes and sizes: plants, posts, boards, bicycles, walls.

furniture.py has few object types in few sizes; a detector trained only on those classifies trunks,
hedges and gate pillars of real streets as pedestrians. Here sizes are drawn from the range found in
gardens, on kerbs and in yards. Plants consist of ellipsoids, cones and rows with irregular surfaces;
`Conditions.foliage_penetration` defines how deep LiDAR pulses enter them.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from itertools import pairwise

import numpy as np

from multimodal_perception.simulation.world.materials import Material
from multimodal_perception.simulation.world.meshes import (
    Mesh,
    cuboid,
    ellipsoid,
    jittered,
    loft,
    merge,
    tube,
)
from multimodal_perception.simulation.world.people import bicycle_mesh

VARIANTS = 60
# Materials of painted, clad or cast objects.
SOLID_MATERIALS = (
    Material.PAINT,
    Material.SHEET,
    Material.CONCRETE,
    Material.WOOD,
    Material.DARK_PAINT,
)
Rng = np.random.Generator


def _shrub(rng: Rng) -> Mesh:
    """A shrub of 1 to 5 overlapping ellipsoids, 0.5 to 2.2 m high."""
    height, half = rng.uniform(0.5, 2.2), rng.uniform(0.2, 0.9)
    parts = []
    for _ in range(int(rng.integers(1, 6))):
        top = height * rng.uniform(0.6, 1.0)
        radii = np.array([*rng.uniform(0.45, 0.8, 2) * half, 0.55 * top])
        position = (*rng.uniform(-0.5, 0.5, 2) * half, 0.48 * top)
        parts.append(jittered(ellipsoid(position, radii, Material.LEAVES, 6, 9), rng, 0.07 * half))
    return merge(parts)


def _conifer(rng: Rng) -> Mesh:
    """A conical or columnar conifer of 1 to 4 m, such as a trimmed thuja or yew."""
    height, base_radius = rng.uniform(1.0, 4.0), rng.uniform(0.2, 0.8)
    z = np.linspace(0.03, 1.0, 7)
    taper = rng.uniform(0.5, 1.6)  # below 1 a column, above it a cone
    angle = np.arange(9) * 2 * np.pi / 9
    radius = base_radius * (1.0 - z**2) ** (0.5 * taper) + 0.02
    rings = np.stack(
        [radius[:, None] * np.cos(angle), radius[:, None] * np.sin(angle), 0 * angle + z[:, None]],
        axis=-1,
    )
    rings[..., 2] *= height
    leaves = np.full((6, 9), Material.LEAVES, np.uint8)
    return jittered(loft(rings, leaves), rng, 0.06 * base_radius)


def _hedge(rng: Rng) -> Mesh:
    """A hedge 1.5 to 8 m long in x and 0.5 to 2.2 m high, with a smooth to irregular surface."""
    length, half, height = rng.uniform(1.5, 8.0), rng.uniform(0.2, 0.6), rng.uniform(0.5, 2.2)
    shape = np.array(
        [(-1, 0), (-1.05, 0.5), (-0.9, 0.95), (0, 1.0), (0.9, 0.95), (1.05, 0.5), (1, 0)]
    )
    along = np.linspace(-length / 2, length / 2, max(3, round(length / 0.6)))
    rings = np.stack([np.column_stack([0 * shape[:, 0] + x, shape]) for x in along])
    rings[..., 1:] *= (half, height)
    leaves = np.full((len(along) - 1, len(shape)), Material.LEAVES, np.uint8)
    return jittered(loft(rings, leaves), rng, rng.uniform(0.02, 0.12))


def _tree(rng: Rng) -> Mesh:
    """A tree with one or two nearly vertical stems of 5 to 60 cm diameter and an irregular crown."""
    height, radius = rng.uniform(3.0, 9.0), rng.uniform(0.05, 0.35) ** 1.2
    stem = rng.uniform(1.2, 3.6)
    parts = []
    for _ in range(1 if rng.random() < 0.8 else 2):
        lean = rng.normal(0.0, 0.06, 2) * stem
        base = rng.uniform(-1.0, 1.0, 2) * radius
        parts.append(
            tube(
                (*base, 0), (*(base + lean), stem + 0.5), radius, Material.BARK, 0.7 * radius, 8
            )
        )  # fmt: skip
    crown = rng.uniform(0.6, 2.2)
    for _ in range(int(rng.integers(2, 6))):
        position = np.array(
            [*rng.uniform(-0.6, 0.6, 2) * crown, stem + rng.uniform(0.3, 0.8) * crown]
        )
        radii = crown * rng.uniform(0.45, 0.8, 3)
        radii[2] = min(radii[2], position[2] - 0.7 * stem)
        position[2] = min(position[2], height)
        parts.append(jittered(ellipsoid(position, radii, Material.LEAVES, 5, 8), rng, 0.08 * crown))
    if rng.random() < 0.3:
        parts.append(_shrub(rng))
    return merge(parts)


def _post(rng: Rng) -> Mesh:
    """A post of 0.7 to 5 m with up to two signs or boxes on it."""
    height, radius = rng.uniform(0.7, 5.0), rng.uniform(0.025, 0.16)
    material = (Material.STEEL, Material.WOOD, Material.CONCRETE, Material.PAINT)[rng.integers(4)]
    parts = [tube((0, 0, 0), (0, 0, height), radius, material, sides=8)]
    for _ in range(int(rng.integers(0, 3))):
        half, face_height = rng.uniform(0.1, 0.45), rng.uniform(0.15, 0.9)
        face_depth = rng.uniform(0.01, 0.12)
        low = rng.uniform(0.3, 1.0) * min(height, 3.0) - face_height / 2
        face = (Material.SIGN, Material.REFLECTOR, Material.PAINT, Material.SHEET)[rng.integers(4)]
        parts.append(
            cuboid(
                (-radius - face_depth, -half, max(low, 0.1)),
                (-radius, half, max(low, 0.1) + face_height),
                face,
            )
        )
    return merge(parts)


def _board(rng: Rng) -> Mesh:
    """A board 0.8 to 2.5 m wide on two posts, such as a notice board, map or advertisement."""
    half, low, board_height = rng.uniform(0.4, 1.25), rng.uniform(0.1, 1.1), rng.uniform(0.5, 1.5)
    parts = [
        cuboid(
            (-0.05, -half, low),
            (0.05, half, low + board_height),
            SOLID_MATERIALS[rng.integers(len(SOLID_MATERIALS))],
        )
    ]
    for y in (-half, half):
        parts.append(tube((0, y, 0), (0, y, low + board_height), 0.04, Material.STEEL))
    return merge(parts)


def _bicycles(rng: Rng) -> Mesh:
    """One to six parked bicycles side by side."""
    spacing, yaw = rng.uniform(0.35, 0.7), rng.uniform(-0.3, 0.3)
    count = int(rng.integers(1, 7))
    return merge(
        [
            bicycle_mesh().moved_to((rng.normal(0, 0.08), (k - (count - 1) / 2) * spacing, 0), yaw)
            for k in range(count)
        ]
    )


def _box(rng: Rng) -> Mesh:
    """A cabinet, container, booth or crate, 0.3 to 2 m long and 0.5 to 2.3 m high."""
    half = rng.uniform(0.15, 1.0), rng.uniform(0.15, 0.6)
    height = rng.uniform(0.5, 2.3)
    material = SOLID_MATERIALS[rng.integers(len(SOLID_MATERIALS))]
    parts = [cuboid((-half[0], -half[1], 0), (half[0], half[1], height), material)]
    if rng.random() < 0.4:
        overhang = rng.uniform(0.02, 0.12)
        parts.append(
            cuboid(
                (-half[0] - overhang, -half[1] - overhang, height),
                (half[0] + overhang, half[1] + overhang, height + rng.uniform(0.03, 0.2)),
                SOLID_MATERIALS[rng.integers(len(SOLID_MATERIALS))],
            )
        )
    return merge(parts)


def _bins(rng: Rng) -> Mesh:
    """One to four wheeled or cylindrical bins in a row."""
    parts = []
    height, half = rng.uniform(0.7, 1.35), rng.uniform(0.18, 0.36)
    wheeled = rng.random() < 0.6
    for k in range(int(rng.integers(1, 5))):
        y = k * (2 * half + rng.uniform(0.03, 0.3))
        if wheeled:
            parts.append(
                cuboid(
                    (-half, y - 0.9 * half, 0.08), (half, y + 0.9 * half, height), Material.PAINT
                )
            )
            parts.append(
                cuboid(
                    (-1.2 * half, y - half, height), (1.1 * half, y + half, height + 0.09), Material.TRIM
                )
            )  # fmt: skip
        else:
            parts.append(tube((0, y, 0), (0, y, height), 0.9 * half, Material.PAINT, half, 10))
    return merge(parts)


def _stone(rng: Rng) -> Mesh:
    """A boulder or heap up to 1.2 m high."""
    radii = rng.uniform(0.25, 0.9, 3) * (1.0, 1.0, 0.8)
    return jittered(ellipsoid((0, 0, 0.6 * radii[2]), radii, Material.CONCRETE, 5, 8), rng, 0.05)


def _bench(rng: Rng) -> Mesh:
    """A bench 1.2 to 2 m long, with its backrest at -y or without one."""
    half = rng.uniform(0.6, 1.0)
    parts = [cuboid((-half, -0.22, 0.40), (half, 0.22, 0.46), Material.WOOD)]
    for x in (-0.8 * half, 0.8 * half):
        parts.append(cuboid((x - 0.05, -0.2, 0), (x + 0.05, 0.2, 0.40), Material.CONCRETE))
    if rng.random() < 0.6:
        parts.append(cuboid((-half, -0.26, 0.55), (half, -0.20, 0.88), Material.WOOD))
    return merge(parts)


def _railing(rng: Rng) -> Mesh:
    """A railing of posts or bars with one or two rails, 1 to 5 m along x and 0.5 to 1.3 m high."""
    length, height = rng.uniform(1.0, 5.0), rng.uniform(0.5, 1.3)
    material = (Material.STEEL, Material.WOOD)[rng.integers(2)]
    thickness = rng.uniform(0.02, 0.06)
    parts = [
        cuboid((0, -thickness, z - thickness), (length, thickness, z + thickness), material)
        for z in ((height,) if rng.random() < 0.5 else (0.45 * height, height))
    ]
    step = rng.uniform(0.12, 2.0)
    for x in np.arange(0.0, length + 0.01, step):
        parts.append(
            cuboid((x - thickness, -thickness, 0), (x + thickness, thickness, height), material)
        )
    return merge(parts)


def _pillar(rng: Rng) -> Mesh:
    """One or both pillars of a gate, 0.9 to 2.1 m high, with a cap."""
    half, height = rng.uniform(0.15, 0.35), rng.uniform(0.9, 2.1)
    material = (Material.BRICK, Material.CONCRETE, Material.FACADE, Material.WOOD)[rng.integers(4)]
    parts = []
    for y in (0.0,) if rng.random() < 0.5 else (-rng.uniform(0.6, 1.8), rng.uniform(0.6, 1.8)):
        parts.append(cuboid((-half, y - half, 0), (half, y + half, height), material))
        cap = 1.2 * half
        parts.append(
            cuboid((-cap, y - cap, height), (cap, y + cap, height + 0.08), Material.CONCRETE)
        )
    return merge(parts)


def _wall(rng: Rng) -> Mesh:
    """A section of wall, 1 to 6 m along x and 0.4 to 1.8 m high."""
    half, height = rng.uniform(0.5, 3.0), rng.uniform(0.4, 1.8)
    material = (Material.BRICK, Material.CONCRETE, Material.WOOD)[rng.integers(3)]
    return cuboid((-half, -0.12, 0), (half, 0.12, height), material)


def _skip(rng: Rng) -> Mesh:
    """A waste skip or covered heap, 2 to 4 m long and 0.8 to 1.6 m high, with sloping ends."""
    half_length, half_width, height = (
        rng.uniform(1.0, 2.0),
        rng.uniform(0.6, 0.95),
        rng.uniform(0.8, 1.6),
    )
    slope = rng.uniform(0.0, 0.5)
    low = np.array(
        [
            (-half_length + slope, -half_width),
            (half_length - slope, -half_width),
            (half_length - slope, half_width),
            (-half_length + slope, half_width),
        ]
    )
    high = np.array(
        [
            (-half_length, -half_width),
            (half_length, -half_width),
            (half_length, half_width),
            (-half_length, half_width),
        ]
    )
    rings = np.stack(
        [np.column_stack([low, np.zeros(4)]), np.column_stack([high, np.full(4, height)])]
    )
    material = (Material.SHEET, Material.PAINT, Material.WOOD, Material.LEAVES)[rng.integers(4)]
    return loft(rings, np.full((1, 4), material, np.uint8))


def _beacon(rng: Rng) -> Mesh:
    """A guide beacon: a panel or cylinder with red and white bands, about 0.2 m wide, on a foot."""
    half, foot_height, panel_height = (
        rng.uniform(0.08, 0.15),
        rng.uniform(0.1, 0.4),
        rng.uniform(0.6, 1.1),
    )
    is_cylindrical = rng.random() < 0.3
    parts = [cuboid((-0.25, -0.2, 0), (0.25, 0.2, min(foot_height, 0.15)), Material.TRIM)]
    parts.append(tube((0, 0, 0), (0, 0, foot_height + 0.05), 0.03, Material.STEEL))
    levels = foot_height + np.linspace(0.0, panel_height, int(rng.integers(4, 7)))
    for k, (low, high) in enumerate(pairwise(levels)):
        material = Material.REFLECTOR if k % 2 else Material.CONE
        if is_cylindrical:
            parts.append(tube((0, 0, low), (0, 0, high), half, material, sides=8))
        else:
            parts.append(cuboid((-0.03, -half, low), (0.03, half, high), material))
    return merge(parts)


def _island_sign(rng: Rng) -> Mesh:
    """A low round sign of 0.5 to 0.7 m diameter facing -x, as at the start of traffic islands."""
    radius, centre_z, thickness = (
        rng.uniform(0.24, 0.36),
        rng.uniform(0.7, 1.5),
        rng.uniform(0.03, 0.16),
    )
    angle = np.arange(12) * 2 * np.pi / 12
    ring = np.column_stack([0 * angle, radius * np.cos(angle), centre_z + radius * np.sin(angle)])
    disc = loft(
        np.stack([ring - (thickness + 0.04, 0, 0), ring - (thickness, 0, 0)]),
        np.full((1, 12), Material.SIGN, np.uint8),
    )
    return merge([tube((0, 0, 0), (0, 0, centre_z), thickness, Material.STEEL, sides=8), disc])


# For each type: its mesh function, its semantic class and its relative frequency in percent.
CLUTTER_TYPES: dict[str, tuple[Callable[[Rng], Mesh], str, int]] = {
    "shrub": (_shrub, "vegetation", 15),
    "conifer": (_conifer, "vegetation", 8),
    "hedge": (_hedge, "vegetation", 9),
    "tree": (_tree, "vegetation", 10),
    "post": (_post, "pole", 13),
    "board": (_board, "furniture", 4),
    "bicycles": (_bicycles, "furniture", 6),
    "box": (_box, "furniture", 6),
    "bins": (_bins, "furniture", 4),
    "stone": (_stone, "furniture", 2),
    "bench": (_bench, "furniture", 2),
    "railing": (_railing, "fence", 3),
    "pillar": (_pillar, "wall", 3),
    "wall": (_wall, "wall", 2),
    "skip": (_skip, "furniture", 1),
    "beacon": (_beacon, "pole", 5),
    "island_sign": (_island_sign, "pole", 7),
}


def sample_clutter(rng: Rng, max_extent: float = 10.0) -> tuple[Mesh, str]:
    """Draw a piece of clutter according to the frequencies of the types.

    max_extent: maximum size in x and in y, metres. Returns the mesh near the origin, standing on z = 0,
    and the name of its semantic class.
    """
    weights = np.array([weight for _, _, weight in CLUTTER_TYPES.values()], float)
    while True:
        clutter_type = str(rng.choice(list(CLUTTER_TYPES), p=weights / weights.sum()))
        mesh = clutter_mesh(clutter_type, int(rng.integers(VARIANTS)))
        low, high = mesh.bounds()
        if (high - low)[:2].max() <= max_extent:
            return mesh, CLUTTER_TYPES[clutter_type][1]


@lru_cache(maxsize=len(CLUTTER_TYPES) * VARIANTS)
def clutter_mesh(clutter_type: str, variant: int) -> Mesh:
    """The mesh of one piece; equal arguments give the same piece.

    clutter_type: key of CLUTTER_TYPES. variant: modulo VARIANTS, seeds the random shape.
    """
    rng = np.random.default_rng((81, list(CLUTTER_TYPES).index(clutter_type), variant % VARIANTS))
    return CLUTTER_TYPES[clutter_type][0](rng)
