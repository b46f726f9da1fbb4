"""What stands about along streets, each piece unlike the next: plants, posts, boards, bicycles.

Streets of furniture.py know a few kinds of a few sizes; a detector that has met no others takes the
trunk, the hedge or the gate pillar that it meets outside for somebody. Here sizes are drawn over what
gardens, kerbs and yards have. Plants are of balls, cones and rows with uneven skins; how deep a LiDAR's
pulses go into them is `Conditions.foliage`.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from itertools import pairwise

import numpy as np

from multimodal_perception.simulation.world.materials import Material
from multimodal_perception.simulation.world.meshes import (
    Mesh,
    block,
    ellipsoid,
    loft,
    merge,
    ruffled,
    tube,
)
from multimodal_perception.simulation.world.people import bicycle

VARIANTS = 60
# Materials of things that are painted, clad or cast.
SOLID = (Material.PAINT, Material.SHEET, Material.CONCRETE, Material.WOOD, Material.DARK_PAINT)
Rng = np.random.Generator


def _shrub(rng: Rng) -> Mesh:
    """Some balls that touch, 0.5 to 2.2 m high and as wide or less."""
    height, half = rng.uniform(0.5, 2.2), rng.uniform(0.2, 0.9)
    parts = []
    for _ in range(int(rng.integers(1, 6))):
        top = height * rng.uniform(0.6, 1.0)
        radii = np.array([*rng.uniform(0.45, 0.8, 2) * half, 0.55 * top])
        at = (*rng.uniform(-0.5, 0.5, 2) * half, 0.48 * top)
        parts.append(ruffled(ellipsoid(at, radii, Material.LEAVES, 6, 9), rng, 0.07 * half))
    return merge(parts)


def _conifer(rng: Rng) -> Mesh:
    """A cone or column of 1 to 4 m, as thujas and yews are cut."""
    height, foot = rng.uniform(1.0, 4.0), rng.uniform(0.2, 0.8)
    z = np.linspace(0.03, 1.0, 7)
    slim = rng.uniform(0.5, 1.6)  # below 1 a column, above it a cone
    angle = np.arange(9) * 2 * np.pi / 9
    radius = foot * (1.0 - z**2) ** (0.5 * slim) + 0.02
    rings = np.stack(
        [radius[:, None] * np.cos(angle), radius[:, None] * np.sin(angle), 0 * angle + z[:, None]],
        axis=-1,
    )
    rings[..., 2] *= height
    leaves = np.full((6, 9), Material.LEAVES, np.uint8)
    return ruffled(loft(rings, leaves), rng, 0.06 * foot)


def _hedge(rng: Rng) -> Mesh:
    """A row of 1.5 to 8 m along x, 0.5 to 2.2 m high, more or less trimmed."""
    length, half, height = rng.uniform(1.5, 8.0), rng.uniform(0.2, 0.6), rng.uniform(0.5, 2.2)
    shape = np.array(
        [(-1, 0), (-1.05, 0.5), (-0.9, 0.95), (0, 1.0), (0.9, 0.95), (1.05, 0.5), (1, 0)]
    )
    along = np.linspace(-length / 2, length / 2, max(3, round(length / 0.6)))
    rings = np.stack([np.column_stack([0 * shape[:, 0] + x, shape]) for x in along])
    rings[..., 1:] *= (half, height)
    leaves = np.full((len(along) - 1, len(shape)), Material.LEAVES, np.uint8)
    return ruffled(loft(rings, leaves), rng, rng.uniform(0.02, 0.12))


def _tree(rng: Rng) -> Mesh:
    """One or two stems of 5 to 60 cm across, more or less upright, and a crown above or about them."""
    height, radius = rng.uniform(3.0, 9.0), rng.uniform(0.05, 0.35) ** 1.2
    stem = rng.uniform(1.2, 3.6)
    parts = []
    for _ in range(1 if rng.random() < 0.8 else 2):
        lean = rng.normal(0.0, 0.06, 2) * stem
        foot = rng.uniform(-1.0, 1.0, 2) * radius
        parts.append(
            tube(
                (*foot, 0), (*(foot + lean), stem + 0.5), radius, Material.BARK, 0.7 * radius, 8
            )
        )  # fmt: skip
    crown = rng.uniform(0.6, 2.2)
    for _ in range(int(rng.integers(2, 6))):
        at = np.array([*rng.uniform(-0.6, 0.6, 2) * crown, stem + rng.uniform(0.3, 0.8) * crown])
        radii = crown * rng.uniform(0.45, 0.8, 3)
        radii[2] = min(radii[2], at[2] - 0.7 * stem)
        at[2] = min(at[2], height)
        parts.append(ruffled(ellipsoid(at, radii, Material.LEAVES, 5, 8), rng, 0.08 * crown))
    if rng.random() < 0.3:
        parts.append(_shrub(rng))
    return merge(parts)


def _post(rng: Rng) -> Mesh:
    """A post of 0.7 to 5 m, half of them with signs or boxes on it."""
    height, radius = rng.uniform(0.7, 5.0), rng.uniform(0.025, 0.16)
    material = (Material.STEEL, Material.WOOD, Material.CONCRETE, Material.PAINT)[rng.integers(4)]
    parts = [tube((0, 0, 0), (0, 0, height), radius, material, sides=8)]
    for _ in range(int(rng.integers(0, 3))):
        half, tall = rng.uniform(0.1, 0.45), rng.uniform(0.15, 0.9)
        deep = rng.uniform(0.01, 0.12)
        low = rng.uniform(0.3, 1.0) * min(height, 3.0) - tall / 2
        face = (Material.SIGN, Material.REFLECTOR, Material.PAINT, Material.SHEET)[rng.integers(4)]
        parts.append(
            block(
                (-radius - deep, -half, max(low, 0.1)), (-radius, half, max(low, 0.1) + tall), face
            )
        )
    return merge(parts)


def _board(rng: Rng) -> Mesh:
    """A board of 0.8 to 2.5 m on two posts: notices, maps, advertisements."""
    half, low, tall = rng.uniform(0.4, 1.25), rng.uniform(0.1, 1.1), rng.uniform(0.5, 1.5)
    parts = [block((-0.05, -half, low), (0.05, half, low + tall), SOLID[rng.integers(len(SOLID))])]
    for y in (-half, half):
        parts.append(tube((0, y, 0), (0, y, low + tall), 0.04, Material.STEEL))
    return merge(parts)


def _bicycles(rng: Rng) -> Mesh:
    """One to six bicycles side by side without riders."""
    apart, turn = rng.uniform(0.35, 0.7), rng.uniform(-0.3, 0.3)
    count = int(rng.integers(1, 7))
    return merge(
        [
            bicycle().placed((rng.normal(0, 0.08), (k - (count - 1) / 2) * apart, 0), turn)
            for k in range(count)
        ]
    )


def _box(rng: Rng) -> Mesh:
    """A cabinet, container, booth or crate: 0.3 to 2 m long, 0.5 to 2.3 m high."""
    half = rng.uniform(0.15, 1.0), rng.uniform(0.15, 0.6)
    height = rng.uniform(0.5, 2.3)
    material = SOLID[rng.integers(len(SOLID))]
    parts = [block((-half[0], -half[1], 0), (half[0], half[1], height), material)]
    if rng.random() < 0.4:
        over = rng.uniform(0.02, 0.12)
        parts.append(
            block(
                (-half[0] - over, -half[1] - over, height),
                (half[0] + over, half[1] + over, height + rng.uniform(0.03, 0.2)),
                SOLID[rng.integers(len(SOLID))],
            )
        )
    return merge(parts)


def _bins(rng: Rng) -> Mesh:
    """One to four bins in a row, round or square."""
    parts = []
    height, half = rng.uniform(0.7, 1.35), rng.uniform(0.18, 0.36)
    wheeled = rng.random() < 0.6
    for k in range(int(rng.integers(1, 5))):
        y = k * (2 * half + rng.uniform(0.03, 0.3))
        if wheeled:
            parts.append(
                block((-half, y - 0.9 * half, 0.08), (half, y + 0.9 * half, height), Material.PAINT)
            )
            parts.append(
                block(
                    (-1.2 * half, y - half, height), (1.1 * half, y + half, height + 0.09), Material.TRIM
                )
            )  # fmt: skip
        else:
            parts.append(tube((0, y, 0), (0, y, height), 0.9 * half, Material.PAINT, half, 10))
    return merge(parts)


def _stone(rng: Rng) -> Mesh:
    """A boulder or a heap of 0.3 to 1.4 m."""
    radii = rng.uniform(0.25, 0.9, 3) * (1.0, 1.0, 0.8)
    return ruffled(ellipsoid((0, 0, 0.6 * radii[2]), radii, Material.CONCRETE, 5, 8), rng, 0.05)


def _bench(rng: Rng) -> Mesh:
    """A bench of 1.2 to 2 m, its back at -y or none."""
    half = rng.uniform(0.6, 1.0)
    parts = [block((-half, -0.22, 0.40), (half, 0.22, 0.46), Material.WOOD)]
    for x in (-0.8 * half, 0.8 * half):
        parts.append(block((x - 0.05, -0.2, 0), (x + 0.05, 0.2, 0.40), Material.CONCRETE))
    if rng.random() < 0.6:
        parts.append(block((-half, -0.26, 0.55), (half, -0.20, 0.88), Material.WOOD))
    return merge(parts)


def _railing(rng: Rng) -> Mesh:
    """Posts and rails or bars, 1 to 5 m along x and 0.5 to 1.3 m high."""
    length, height = rng.uniform(1.0, 5.0), rng.uniform(0.5, 1.3)
    material = (Material.STEEL, Material.WOOD)[rng.integers(2)]
    thick = rng.uniform(0.02, 0.06)
    parts = [
        block((0, -thick, z - thick), (length, thick, z + thick), material)
        for z in ((height,) if rng.random() < 0.5 else (0.45 * height, height))
    ]
    step = rng.uniform(0.12, 2.0)
    for x in np.arange(0.0, length + 0.01, step):
        parts.append(block((x - thick, -thick, 0), (x + thick, thick, height), material))
    return merge(parts)


def _pillar(rng: Rng) -> Mesh:
    """One or both pillars of a gate, 0.9 to 2.1 m, with a cap."""
    half, height = rng.uniform(0.15, 0.35), rng.uniform(0.9, 2.1)
    material = (Material.BRICK, Material.CONCRETE, Material.FACADE, Material.WOOD)[rng.integers(4)]
    parts = []
    for y in (0.0,) if rng.random() < 0.5 else (-rng.uniform(0.6, 1.8), rng.uniform(0.6, 1.8)):
        parts.append(block((-half, y - half, 0), (half, y + half, height), material))
        cap = 1.2 * half
        parts.append(
            block((-cap, y - cap, height), (cap, y + cap, height + 0.08), Material.CONCRETE)
        )
    return merge(parts)


def _wall(rng: Rng) -> Mesh:
    """A piece of wall, 1 to 6 m along x and 0.4 to 1.8 m high."""
    half, height = rng.uniform(0.5, 3.0), rng.uniform(0.4, 1.8)
    material = (Material.BRICK, Material.CONCRETE, Material.WOOD)[rng.integers(3)]
    return block((-half, -0.12, 0), (half, 0.12, height), material)


def _skip(rng: Rng) -> Mesh:
    """A skip or a covered heap, 2 to 4 m long, as tall as a car or less: a trough with sloping ends."""
    half, wide, height = rng.uniform(1.0, 2.0), rng.uniform(0.6, 0.95), rng.uniform(0.8, 1.6)
    slope = rng.uniform(0.0, 0.5)
    low = np.array(
        [(-half + slope, -wide), (half - slope, -wide), (half - slope, wide), (-half + slope, wide)]
    )
    high = np.array([(-half, -wide), (half, -wide), (half, wide), (-half, wide)])
    rings = np.stack(
        [np.column_stack([low, np.zeros(4)]), np.column_stack([high, np.full(4, height)])]
    )
    material = (Material.SHEET, Material.PAINT, Material.WOOD, Material.LEAVES)[rng.integers(4)]
    return loft(rings, np.full((1, 4), material, np.uint8))


def _beacon(rng: Rng) -> Mesh:
    """A guide beacon: a panel or cylinder of red and white bands, 0.2 m wide and 1 m high, on a foot."""
    half, foot, tall = rng.uniform(0.08, 0.15), rng.uniform(0.1, 0.4), rng.uniform(0.6, 1.1)
    round_one = rng.random() < 0.3
    parts = [block((-0.25, -0.2, 0), (0.25, 0.2, min(foot, 0.15)), Material.TRIM)]
    parts.append(tube((0, 0, 0), (0, 0, foot + 0.05), 0.03, Material.STEEL))
    levels = foot + np.linspace(0.0, tall, int(rng.integers(4, 7)))
    for k, (low, high) in enumerate(pairwise(levels)):
        material = Material.REFLECTOR if k % 2 else Material.CONE
        if round_one:
            parts.append(tube((0, 0, low), (0, 0, high), half, material, sides=8))
        else:
            parts.append(block((-0.03, -half, low), (0.03, half, high), material))
    return merge(parts)


def _island_sign(rng: Rng) -> Mesh:
    """A round sign of 0.5 to 0.7 m no higher than a child, facing -x, as traffic islands begin with."""
    radius, middle, thick = rng.uniform(0.24, 0.36), rng.uniform(0.7, 1.5), rng.uniform(0.03, 0.16)
    angle = np.arange(12) * 2 * np.pi / 12
    ring = np.column_stack([0 * angle, radius * np.cos(angle), middle + radius * np.sin(angle)])
    disc = loft(
        np.stack([ring - (thick + 0.04, 0, 0), ring - (thick, 0, 0)]),
        np.full((1, 12), Material.SIGN, np.uint8),
    )
    return merge([tube((0, 0, 0), (0, 0, middle), thick, Material.STEEL, sides=8), disc])


# Kinds: how each is made, its class, and how many of a hundred are of it.
CLUTTER: dict[str, tuple[Callable[[Rng], Mesh], str, int]] = {
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


def draw_clutter(rng: Rng, longest: float = 10.0) -> tuple[Mesh, str]:
    """A piece standing on z = 0 about the origin, at most so many metres across, and its class."""
    shares = np.array([share for _, _, share in CLUTTER.values()], float)
    while True:
        kind = str(rng.choice(list(CLUTTER), p=shares / shares.sum()))
        mesh = clutter(kind, int(rng.integers(VARIANTS)))
        low, high = mesh.bounds()
        if (high - low)[:2].max() <= longest:
            return mesh, CLUTTER[kind][1]


@lru_cache(maxsize=len(CLUTTER) * VARIANTS)
def clutter(kind: str, variant: int) -> Mesh:
    """A piece of one of CLUTTER, the same for the same variant."""
    rng = np.random.default_rng((81, list(CLUTTER).index(kind), variant % VARIANTS))
    return CLUTTER[kind][0](rng)
