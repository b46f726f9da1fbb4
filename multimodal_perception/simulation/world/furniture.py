"""What stands on pavements about as tall as people: bins, posts, shrubs, parked bicycles.

To a LiDAR that meets it with a few points it looks like a person; a camera or a thermal image tells
them apart. Sizes: wheeled bins of 240 l (EN 840-1), litter bins, letter boxes and meters as makers sell
them, street cabinets 0.9 to 1.2 m wide.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from multimodal_perception.simulation.world.materials import Material
from multimodal_perception.simulation.world.meshes import Mesh, block, ellipsoid, merge, quad, tube
from multimodal_perception.simulation.world.people import bicycle

# Kinds, the class of each, and how many of a hundred are of it.
KINDS: dict[str, tuple[str, int]] = {
    "litter_bin": ("furniture", 14),
    "wheeled_bin": ("furniture", 14),
    "meter": ("pole", 12),
    "letter_box": ("furniture", 8),
    "cabinet": ("furniture", 8),
    "planter": ("vegetation", 12),
    "young_tree": ("vegetation", 10),
    "board": ("furniture", 6),
    "parasol": ("furniture", 6),
    "boxes": ("furniture", 4),
    "parked_bicycle": ("furniture", 6),
}
VARIANTS = 8


def draw_kind(rng: np.random.Generator) -> str:
    """One of KINDS, by how common each is."""
    shares = np.array([share for _, share in KINDS.values()], float)
    return str(rng.choice(list(KINDS), p=shares / shares.sum()))


@lru_cache(maxsize=len(KINDS) * VARIANTS)
def furniture(kind: str, variant: int) -> Mesh:
    """A piece of one of KINDS, standing on z = 0 about the origin, no wider than 0.6 m across."""
    rng = np.random.default_rng((80, list(KINDS).index(kind), variant % VARIANTS))
    if kind == "litter_bin":
        height, radius = rng.uniform(0.85, 1.15), rng.uniform(0.19, 0.27)
        return merge(
            [
                tube((0, 0, 0.08), (0, 0, height), radius * 0.9, Material.PAINT, radius, 12),
                tube((0, 0, 0), (0, 0, 0.08), 0.12, Material.STEEL),
            ]
        )
    if kind == "wheeled_bin":
        return _wheeled_bin()
    if kind == "meter":
        height, side = rng.uniform(1.3, 1.75), rng.uniform(0.06, 0.14)
        return merge(
            [
                tube((0, 0, 0), (0, 0, height - 0.4), 0.05, Material.STEEL),
                block((-side, -side, height - 0.45), (side, side, height), Material.PAINT),
            ]
        )
    if kind == "letter_box":
        height = rng.uniform(1.2, 1.6)
        return merge(
            [
                block((-0.1, -0.1, 0), (0.1, 0.1, 0.5), Material.STEEL),
                block((-0.2, -0.25, 0.45), (0.2, 0.25, height), Material.PAINT),
            ]
        )
    if kind == "cabinet":
        half, height = rng.uniform(0.35, 0.6), rng.uniform(1.1, 1.5)
        material = Material.SHEET if rng.random() < 0.5 else Material.PAINT
        return block((-half, -0.2, 0), (half, 0.2, height), material)
    if kind == "planter":
        height, pot = rng.uniform(1.2, 1.9), rng.uniform(0.2, 0.3)
        middle = 0.5 * (height + 0.35)
        radii = (rng.uniform(0.2, 0.33), rng.uniform(0.2, 0.33), height - middle)
        return merge(
            [
                block((-pot, -pot, 0), (pot, pot, 0.5), Material.CONCRETE),
                ellipsoid((0, 0, middle), radii, Material.LEAVES, 5, 8),
            ]
        )
    if kind == "young_tree":
        height = rng.uniform(1.7, 2.7)
        return merge(
            [
                tube((0, 0, 0), (0, 0, height - 0.5), 0.03, Material.BARK),
                tube((0.25, 0, 0), (0.2, 0, 1.3), 0.03, Material.WOOD),
                ellipsoid((0, 0, height - 0.55), (0.3, 0.3, 0.55), Material.LEAVES, 5, 8),
            ]
        )
    if kind == "board":
        corners = np.array([[0.3, -0.3, 0], [0.3, 0.3, 0], [0.02, 0.3, 1.0], [0.02, -0.3, 1.0]])
        return merge(
            [quad(corners, Material.PAINT), quad(corners * (-1, 1, 1), Material.DARK_PAINT)]
        )
    if kind == "parasol":
        return merge(
            [
                tube((0, 0, 0), (0, 0, 2.3), 0.025, Material.WOOD),
                tube((0, 0, 0.9), (0, 0, 2.2), 0.2, Material.CLOTH, 0.05),
                block((-0.25, -0.25, 0), (0.25, 0.25, 0.08), Material.CONCRETE),
            ]
        )
    if kind == "boxes":
        return merge(
            [
                block((-0.3, -0.25, 0.5 * k), (0.3, 0.25, 0.5 * k + 0.48), Material.CARDBOARD)
                for k in range(int(rng.integers(2, 4)))
            ]
        )
    return bicycle()


def _wheeled_bin() -> Mesh:
    wheels = [
        tube((-0.28, s * 0.2, 0.1), (-0.28, s * 0.26, 0.1), 0.1, Material.TYRE, sides=12)
        for s in (-1, 1)
    ]
    return merge(
        [
            block((-0.28, -0.27, 0.12), (0.3, 0.27, 0.98), Material.PAINT),
            block((-0.36, -0.29, 0.98), (0.36, 0.29, 1.07), Material.PAINT),
            *wheels,
        ]
    )
